package jetstreamqueue

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/userhero/relay/queue"
)

// sealer encrypts the stored data of webhooks, because their settings hold secrets. Without
// a key it leaves the data unencrypted.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (s sealer, err error) {
	if len(key) == 0 {
		return s, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return s, fmt.Errorf("the encryption key has %d bytes; it must have 16, 24 or 32", len(key))
	}
	s.aead, err = cipher.NewGCM(block)
	return s, err
}

// seal encrypts a webhook's data. It can be decrypted only for the same webhook.
func (s sealer) seal(w queue.WebhookID, data []byte) (sealed []byte, encrypted bool) {
	if s.aead == nil {
		return data, false
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(data)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, data, []byte(number(w))), true
}

// open decrypts data that seal encrypted.
func (s sealer) open(w queue.WebhookID, sealed []byte) ([]byte, error) {
	if s.aead == nil {
		return nil, errors.New("its settings are encrypted, and there is no encryption_key")
	}
	size := s.aead.NonceSize()
	if len(sealed) < size {
		return nil, errors.New("its settings are damaged")
	}
	data, err := s.aead.Open(nil, sealed[:size], sealed[size:], []byte(number(w)))
	if err != nil {
		return nil, errors.New("its settings are encrypted with another encryption_key, or are damaged")
	}
	return data, nil
}
