package main

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// logSink hands log lines on to a writer without ever holding up who logs: a reader of our log that stalls must not stall
// a Check, whose time-out at Envoy is an error and no verdict. Lines wait in a bounded queue, and those that do are written
// together; what does not fit is dropped and counted.
type logSink struct {
	w       io.Writer
	lines   chan *[]byte
	room    sync.Pool // of *[]byte
	closing chan struct{}
	closed  chan struct{}
	dropped prometheus.Counter
}

const (
	// maxLogLines is how many lines wait, a second's worth of denials under a flood: about 2 MiB.
	maxLogLines = 4096
	// maxLogWrite is about how much is written at once, which is what a pipe holds.
	maxLogWrite = 64 << 10
	// logFlushLimit is how long the last lines may take.
	logFlushLimit = time.Second
)

// newLogSink starts the goroutine that writes; close ends it.
func newLogSink(w io.Writer) *logSink {
	s := &logSink{
		w:       w,
		lines:   make(chan *[]byte, maxLogLines),
		room:    sync.Pool{New: func() any { return new([]byte) }},
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "authz_log_lines_dropped_total",
			Help: "Log lines that were dropped because nobody took them off our hands, or they could not be written.",
		}),
	}
	go s.run()
	return s
}

// Write implements io.Writer for one whole line. It never fails.
func (s *logSink) Write(line []byte) (int, error) {
	waiting := s.room.Get().(*[]byte)
	*waiting = append((*waiting)[:0], line...) // the handler uses its buffer again
	select {
	case s.lines <- waiting:
	default:
		s.room.Put(waiting)
		s.dropped.Inc()
	}
	return len(line), nil
}

func (s *logSink) run() {
	defer close(s.closed)
	for {
		select {
		case line := <-s.lines:
			s.write(line)
		case <-s.closing:
			for {
				select {
				case line := <-s.lines:
					s.write(line)
				default:
					return
				}
			}
		}
	}
}

// write writes a line, and those that wait behind it.
func (s *logSink) write(line *[]byte) {
	batch := *line
	for len(batch) < maxLogWrite {
		select {
		case next := <-s.lines:
			batch = append(batch, *next...)
			s.room.Put(next)
			continue
		default:
		}
		break
	}
	if _, err := s.w.Write(batch); err != nil { // the reader has died, or the disk is full
		s.dropped.Add(float64(bytes.Count(batch, []byte("\n"))))
	}
	if cap(batch) <= maxLogWrite/16 { // of a flood nothing is kept
		*line = batch
		s.room.Put(line)
	}
}

// close writes what waits, if that can be done in time.
func (s *logSink) close() {
	close(s.closing)
	select {
	case <-s.closed:
	case <-time.After(logFlushLimit):
	}
}
