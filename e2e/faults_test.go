package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// faultRows are the numbers of the fault table in docs/operations.md that have a script.
var faultRows = append(numbers(1, 30), numbers(37, 47)...)

func numbers(first, last int) (all []int) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// TestFaults plays testdata/faults, one script for each fault; README.txt there explains the form. `make faults` (FAULTS=print) plays all
// and prints what was observed; else those that are slow are left out, and the in-process tests that a script names, which
// run where they are.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/[0-9]*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var rows []*row
	var found []int
	for _, file := range files {
		r, err := readRow(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			t.Fatal(err)
		}
		rows, found = append(rows, r), append(found, r.number)
	}
	if !slices.Equal(found, faultRows) {
		t.Fatalf("the scripts are for %v, want %v", found, faultRows)
	}
	all := os.Getenv("FAULTS") == "print"
	printed := table{rows: rows, ended: make(map[*row]string, len(rows))}
	t.Run("rows", func(t *testing.T) {
		var group errgroup.Group
		group.SetLimit(rowsAtOnce)
		if all {
			group.SetLimit(rowsAtOnce / 2) // how long things take is printed, too
		}
		for _, r := range rows {
			group.Go(func() error {
				t.Run(strconv.Itoa(r.number), func(t *testing.T) {
					if r.slow && !all {
						t.Skip("slow: make faults plays it")
					}
					ctx, cancel := context.WithTimeout(t.Context(), rowLimit)
					defer cancel()
					p := &play{row: r, all: all}
					began := time.Now()
					err := p.run(ctx)
					if err != nil {
						err = fmt.Errorf("%w\n%s", err, p.aftermath)
						t.Errorf("%s: %v", r.name, err)
					}
					printed.end(r, p.said, err, time.Since(began))
				})
				return nil
			})
		}
		group.Wait()
	})
	removeTestBinaries()
	if all {
		printed.sum()
	}
}

const (
	// rowsAtOnce are more than there are CPUs: most of a script is waiting.
	rowsAtOnce = 4
	// rowLimit bounds a script.
	rowLimit = 3 * time.Minute
)

// table prints rows in their order, each as soon as it and those before it have ended, on standard error: on the other stream the
// testing package has the last word.
type table struct {
	rows []*row

	mu    sync.Mutex
	ended map[*row]string // guarded by mu, as all below
	next  int
	ok    int
}

func (t *table) end(r *row, said []string, err error, took time.Duration) {
	if os.Getenv("FAULTS") != "print" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	outcome := "ok"
	if err == nil {
		t.ok++
	} else {
		outcome = "FAIL"
		said = append(said, err.Error())
	}
	text := fmt.Sprintf("%2d  %-44s %-4s %5.1f s", r.number, r.name, outcome, took.Seconds())
	for _, line := range said {
		text += "\n      " + strings.ReplaceAll(line, "\n", "\n      ")
	}
	t.ended[r] = text
	for t.next < len(t.rows) && t.ended[t.rows[t.next]] != "" {
		fmt.Fprintln(os.Stderr, t.ended[t.rows[t.next]])
		t.next++
	}
}

// sum prints what was held back by a row that was not played, and how many of all were as they should be.
func (t *table) sum() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows[t.next:] {
		if text := t.ended[r]; text != "" {
			fmt.Fprintln(os.Stderr, text)
		}
	}
	fmt.Fprintf(os.Stderr, "%d of %d\n", t.ok, len(t.rows))
}
