package badgerfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// sanity is what the registry's first bytes decrypt to.
const sanity = "Hello Badger"

const blockSize = 16 // of AES: the length of an initialisation vector

// Keys are a store's data keys by number. Number 0 stands for no encryption.
type Keys map[uint64][]byte

// ReadKeys reads KEYREGISTRY with the store's encryption key, or without one.
// Errors wrap ErrKey, ErrDamaged or fs.ErrNotExist; with ErrDamaged the keys
// before the damage are returned as well.
func ReadKeys(dir string, encryptionKey []byte) (Keys, error) {
	b, err := os.ReadFile(filepath.Join(dir, badger.KeyRegistryFileName))
	if err != nil {
		return nil, err
	}
	if len(b) < blockSize+len(sanity) {
		return nil, damaged("%d bytes, too few", len(b))
	}
	iv, b := b[:blockSize], b[blockSize:]
	text, b := b[:len(sanity)], b[len(sanity):]
	if text, err = decrypt(text, encryptionKey, iv); err != nil {
		return nil, err
	}
	if !bytes.Equal(text, []byte(sanity)) {
		return nil, ErrKey
	}
	keys := make(Keys)
	for len(b) > 0 {
		if len(b) < 8 {
			return keys, damaged("it ends within a key")
		}
		size, sum := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		if b = b[8:]; uint64(size) > uint64(len(b)) {
			return keys, damaged("it ends within a key")
		}
		if crc32.Checksum(b[:size], castagnoli) != sum {
			return keys, damaged("the checksum of a key is wrong")
		}
		key := new(pb.DataKey)
		if err := proto.Unmarshal(b[:size], key); err != nil {
			return keys, damaged("a key does not decode")
		}
		if keys[key.KeyId], err = decrypt(key.Data, encryptionKey, key.Iv); err != nil {
			return keys, damaged("a key does not decode")
		}
		b = b[size:]
	}
	return keys, nil
}

// of returns the data key of a file; nil is none.
func (k Keys) of(id uint64) ([]byte, error) {
	if id == 0 {
		return nil, nil
	}
	key, ok := k[id]
	if !ok {
		return nil, fmt.Errorf("%w: its data key, number %d, is not in %s", ErrKey, id, badger.KeyRegistryFileName)
	}
	return key, nil
}

// Has tells whether the store has a registry.
func Has(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return !errors.Is(err, fs.ErrNotExist)
}

func decrypt(b, key, iv []byte) ([]byte, error) {
	if len(key) == 0 {
		return b, nil
	}
	if len(iv) != blockSize {
		return nil, damaged("an initialisation vector of %d bytes", len(iv))
	}
	return y.XORBlockAllocate(b, key, iv)
}
