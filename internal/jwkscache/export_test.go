package jwkscache

import (
	"crypto/rsa"
	"time"
)

// Parse is what the fuzz test drives; every other test comes through the exported door.
func Parse(body []byte) (map[string]*rsa.PublicKey, error) {
	set, err := parseKeySet(body)
	return set.keys, err
}

// Decode is what the other fuzz test drives.
func Decode(c *Cache, text []byte) error {
	_, err := c.decode(text, time.Now())
	return err
}

// HangSave is a disk that hangs: a write has begun and does not end before resume is called.
func HangSave(c *Cache) (resume func()) {
	c.saving <- struct{}{}
	return func() { <-c.saving }
}
