package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAStalledLogHoldsNobodyUpAndIsCounted(t *testing.T) {
	reader, writer := io.Pipe()
	sink := newLogSink(writer)
	const lines = 2 * maxLogLines
	for i := range lines { // returns only because nothing blocks
		fmt.Fprintf(sink, "line %d: %s\n", i, strings.Repeat(".", 100))
	}
	var metric dto.Metric
	if err := sink.dropped.Write(&metric); err != nil {
		t.Fatal(err)
	}
	// What is in the writer's hands already waits no longer.
	const written = maxLogWrite/100 + 1
	dropped := int(metric.GetCounter().GetValue())
	if dropped > lines-maxLogLines || dropped < lines-maxLogLines-written {
		t.Errorf("%d lines dropped", dropped)
	}

	got := make(chan []byte)
	go func() {
		text, _ := io.ReadAll(reader)
		got <- text
	}()
	sink.close()
	writer.Close()
	text := <-got
	if !bytes.HasPrefix(text, []byte("line 0: ....")) {
		t.Errorf("begins with %.20q", text)
	}
	if n := bytes.Count(text, []byte("\n")); n != lines-dropped {
		t.Errorf("%d lines were written once somebody read", n)
	}
}

func TestALogThatStaysStalledDoesNotHoldUpTheEnd(t *testing.T) {
	reader, writer := io.Pipe()
	sink := newLogSink(writer)
	fmt.Fprintln(sink, "nobody reads this")
	sink.close()
	reader.Close() // lets the goroutine go, for this test's sake
	<-sink.closed
}
