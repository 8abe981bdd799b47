package attacks

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// want is how many attacks the list has.
const want = 105

// held says of each attack whether it came to what the list wants.
var held [want]bool

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if os.Getenv("ATTACKS") == "print" {
			printList()
		}
		os.Exit(code)
	}))
}

// printList says what came of each attack.
func printList() {
	attacks, _ := readScript()
	sum := 0
	for i, a := range attacks[:min(len(attacks), want)] {
		outcome := "BROKEN"
		if held[i] {
			outcome = "held"
			sum++
		}
		fmt.Printf("%3d  %-52s %-6s  deny: %s; allow: %s (%d cases)\n",
			a.number, a.name, outcome, a.reasons(false), a.reasons(true), len(a.scenes))
	}
	fmt.Printf("%d of %d\n", sum, want)
}

func TestAttacks(t *testing.T) {
	attacks, err := readScript()
	if err != nil {
		t.Fatal(err)
	}
	if len(attacks) != want {
		t.Fatalf("%s has %d attacks, want %d", scriptFile, len(attacks), want)
	}
	layTrap(t)
	for i, a := range attacks {
		name := strings.ReplaceAll(a.name, "/", " or ") // a slash would make it two names
		t.Run(fmt.Sprintf("%03d %s", a.number, name), func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { held[i] = !t.Failed() })
			if denied, allowed := a.count(); denied == 0 || allowed == 0 {
				t.Errorf("%d of its requests are denied and %d pass: it needs both", denied, allowed)
			}
			for _, how := range []encoding{joined, raw} {
				synctest.Test(t, func(t *testing.T) { playAll(t, a, how) })
			}
		})
	}
}

// playAll plays an attack's scenes, each that changes the world in a house of its own.
func playAll(t *testing.T, a *attack, how encoding) {
	var ordinary []*scene
	for _, s := range a.scenes {
		if changesWorld(s) {
			playIn(t, how, s)
		} else {
			ordinary = append(ordinary, s)
		}
	}
	playIn(t, how, ordinary...)
}

// playIn plays scenes in one house.
func playIn(t *testing.T, how encoding, scenes ...*scene) {
	ctx, cancel := context.WithCancel(context.Background())
	h, stopped := newHouse(t, ctx, mentioned(scenes))
	for _, s := range scenes {
		if err := newPlay(h, how).run(s); err != nil {
			t.Errorf("%s, by %s: %v", s.title, how, err)
		}
		time.Sleep(unknownKeyInterval) // of another scene's, which may then cause a fetch again
	}
	cancel()
	stopped()
}

// unknownKeyInterval is longer than two of the key cache's own.
const unknownKeyInterval = 11 * time.Second

// mentioned says which projects scenes are about; only their keys are made and fetched.
func mentioned(scenes []*scene) map[string]bool {
	names := map[string]bool{"test": true}
	for _, s := range scenes {
		for _, r := range s.requests {
			for _, l := range r.steps {
				line := l.verb + " " + l.rest
				for who, project := range people {
					if strings.Contains(line, "of "+who) || strings.Contains(line, "/"+project) {
						names[project] = true
					}
				}
			}
		}
	}
	return names
}

// trap is an address that nothing but tokens names, as ${trap}: whoever connects to it believed one.
var trap struct {
	address     string
	connections atomic.Int64
}

func layTrap(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trap.address = listener.Addr().String()
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			trap.connections.Add(1)
			connection.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		accepting.Wait()
		if n := trap.connections.Load(); n > 0 {
			t.Errorf("%d connections to an address that only tokens name", n)
		}
	})
}
