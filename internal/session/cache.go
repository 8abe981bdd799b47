package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"authz-sidecar/internal/jws"
)

const (
	// entryOverhead is what an entry costs beside its proof, in bytes: measured over 100,000 entries.
	entryOverhead = 144
	// afterExpiry is how long a JWT that has expired is still remembered: a client that brings an old one brings it with
	// several requests at once.
	afterExpiry = time.Minute
)

// cache remembers proofs by W-TinyLFU (https://arxiv.org/abs/1512.00727): once it is full, a JWT gets in only in the place of
// one that was asked for less often of late, so that a flood of JWTs that are used once or twice does not drive out those in use.
type cache struct {
	entries *otter.Cache[digest, proof]
	flights singleflight.Group
	texts   sync.Pool // of *keyedText
}

// digest is SHA-256 over a key of the cache's own, which is random, and a JWT: who sees digests learns nothing of JWTs.
type digest [sha256.Size]byte

// keyedText is the cache's key and room for a JWT, and what makes a digest of it.
type keyedText struct {
	text [sha256.Size + jws.MaxLength]byte
	hash hash.Hash
	sum  digest
}

// newCache returns a cache that is to be closed.
func newCache(size int, leeway time.Duration) *cache {
	var key [sha256.Size]byte
	_, _ = rand.Read(key[:]) // which never fails
	c := &cache{entries: otter.Must(&otter.Options[digest, proof]{
		MaximumWeight: uint64(size),
		Weigher:       func(_ digest, p proof) uint32 { return weigh(p) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[digest, proof]) time.Duration {
			left := e.Value.times().expires.Add(leeway).Sub(time.Unix(0, e.SnapshotAtNano))
			return max(left, 0) + afterExpiry
		}),
		// Whoever finds a buffer full does the upkeep, which is short: waking a goroutine for it costs more.
		Executor: func(task func()) { task() },
	})}
	c.texts.New = func() any {
		t := &keyedText{hash: sha256.New()}
		copy(t.text[:], key[:])
		return t
	}
	return c
}

func (c *cache) close() { c.entries.StopAllGoroutines() }

// weigh returns what the entry of a proof costs, in bytes. Go's size classes lie about an eighth of a power of two apart.
func weigh(p proof) uint32 {
	step := max(16, 1<<bits.Len(uint(len(p)))>>4)
	return uint32(entryOverhead + (len(p)+step-1)/step*step)
}

// digest takes a JWT of at most jws.MaxLength bytes.
func (c *cache) digest(jwt string) digest {
	t := c.texts.Get().(*keyedText)
	t.hash.Reset()
	t.hash.Write(t.text[:sha256.Size+copy(t.text[sha256.Size:], jwt)])
	t.hash.Sum(t.sum[:0])
	sum := t.sum
	c.texts.Put(t)
	return sum
}

// get returns a proof of this generation.
func (c *cache) get(d digest, generation uint64) (proof, bool) {
	p, ok := c.entries.GetIfPresent(d)
	return p, ok && p.generation() == generation
}

// once returns what authenticate returns, which runs once for all who ask for one JWT at one time, and panics if it does. A proof
// is remembered if keep says so.
func (c *cache) once(d digest, generation uint64, authenticate func() (proof, error), keep func(proof) bool) (proof, error) {
	var flight [sha256.Size + 8]byte // of one generation: another one may have another key
	binary.BigEndian.PutUint64(flight[copy(flight[:], d[:]):], generation)
	p, err, _ := c.flights.Do(string(flight[:]), func() (any, error) {
		if p, ok := c.get(d, generation); ok { // another flight has landed since the caller looked
			return p, nil
		}
		p, err := authenticate()
		if err == nil && keep(p) {
			c.entries.Set(d, p)
		}
		return p, err
	})
	return p.(proof), err
}
