package main

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAStalledLogHoldsNobodyUpAndIsCounted(t *testing.T) {
	reader, writer := io.Pipe()
	sink := newLogSink(writer)
	const lines = maxLogLines + 500
	for i := range lines { // returns only because nothing blocks
		fmt.Fprintf(sink, "line %d\n", i)
	}
	var metric dto.Metric
	if err := sink.dropped.Write(&metric); err != nil {
		t.Fatal(err)
	}
	// One line may be in the writer's hands already.
	if n := metric.GetCounter().GetValue(); n < 499 || n > 500 {
		t.Errorf("%v lines dropped", n)
	}

	got := make(chan []byte)
	go func() {
		text, _ := io.ReadAll(reader)
		got <- text
	}()
	sink.close()
	writer.Close()
	text := <-got
	if !bytes.HasPrefix(text, []byte("line 0\nline 1\n")) {
		t.Errorf("begins with %.20q", text)
	}
	if n := bytes.Count(text, []byte("\n")); n < maxLogLines || n > maxLogLines+1 {
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
