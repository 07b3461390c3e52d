package storefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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
// Errors wrap ErrKey, ErrDamaged or fs.ErrNotExist. What could be read is
// returned with an error too; with ErrKey it is most likely nonsense.
func ReadKeys(dir string, encryptionKey []byte) (Keys, error) {
	keys := make(Keys)
	b, err := os.ReadFile(filepath.Join(dir, badger.KeyRegistryFileName))
	if err != nil {
		return keys, err
	}
	if len(b) < blockSize+len(sanity) {
		return keys, damaged("%d bytes, too few", len(b))
	}
	iv, b := b[:blockSize], b[blockSize:]
	text, b := b[:len(sanity)], b[len(sanity):]
	if text, err = decrypt(text, encryptionKey, iv); err != nil {
		return keys, err
	}
	if !bytes.Equal(text, []byte(sanity)) {
		err = ErrKey
	}
	for len(b) > 0 {
		if len(b) < 8 {
			return keys, errors.Join(err, damaged("it ends within a key"))
		}
		size, sum := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		if b = b[8:]; uint64(size) > uint64(len(b)) {
			return keys, errors.Join(err, damaged("it ends within a key"))
		}
		record := b[:size]
		b = b[size:]
		key := new(pb.DataKey)
		switch {
		case crc32.Checksum(record, castagnoli) != sum:
			err = errors.Join(err, damaged("the checksum of a key is wrong"))
		case proto.Unmarshal(record, key) != nil:
			err = errors.Join(err, damaged("a key does not decode"))
		default:
			data, bad := decrypt(key.Data, encryptionKey, key.Iv)
			if bad != nil {
				err = errors.Join(err, bad)
				continue
			}
			keys[key.KeyId] = data
		}
	}
	return keys, err
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

func decrypt(b, key, iv []byte) ([]byte, error) {
	if len(key) == 0 {
		return b, nil
	}
	if len(iv) != blockSize {
		return nil, damaged("an initialisation vector of %d bytes", len(iv))
	}
	return y.XORBlockAllocate(b, key, iv)
}
