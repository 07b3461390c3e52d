// Package seal encrypts the settings of webhooks, which hold secrets, before they leave the
// relay for the servers. AES-GCM binds each text to the webhook's name, so that the settings
// of one webhook cannot be put in place of another's. It knows no queue.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// Sealer encrypts and decrypts. The zero value leaves everything unencrypted.
type Sealer struct{ aead cipher.AEAD }

// New returns a sealer with a key of 16, 24 or 32 bytes, or the zero value if key is empty.
func New(key []byte) (s Sealer, err error) {
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

// Seal encrypts the data of a webhook. It can be decrypted only under the same name.
// Without a key, the data is returned as it is and encrypted is false.
func (s Sealer) Seal(webhook string, data []byte) (sealed []byte, encrypted bool) {
	if s.aead == nil {
		return data, false
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(data)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, data, []byte(webhook)), true
}

// Open decrypts what Seal has encrypted. Errors say why it cannot.
func (s Sealer) Open(webhook string, sealed []byte) ([]byte, error) {
	if s.aead == nil {
		return nil, errors.New("its settings are encrypted, and there is no encryption_key")
	}
	size := s.aead.NonceSize()
	if len(sealed) < size {
		return nil, errors.New("its settings are damaged")
	}
	data, err := s.aead.Open(nil, sealed[:size], sealed[size:], []byte(webhook))
	if err != nil {
		return nil, errors.New("its settings are encrypted with another encryption_key, or are damaged")
	}
	return data, nil
}
