package jwkscache

import "crypto/rsa"

// Parse is what the fuzz test drives; every other test comes through the exported door.
func Parse(body []byte) (map[string]*rsa.PublicKey, error) {
	set, err := parseKeySet(body)
	return set.keys, err
}
