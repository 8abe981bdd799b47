// Package panics tells of panics that were survived.
//
// What it keeps true: of a panic's value nothing is shown but what the Go runtime made, since any other could quote a credential; and to
// tell of one never panics itself.
package panics

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
)

// ErrPanicked is what every panic is as an error.
var ErrPanicked = errors.New("panicked")

// panicError is a panic as the failure of what it happened in.
type panicError struct{ value, stack string }

func (e *panicError) Error() string { return "panicked: " + e.value }
func (e *panicError) Unwrap() error { return ErrPanicked }

// Recover is to be deferred: it makes a panic the error, which is ErrPanicked and knows its stack.
func Recover(err *error) {
	if v := recover(); v != nil {
		*err = newError(v)
	}
}

func newError(value any) *panicError {
	text := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		text = err.Error()
	}
	return &panicError{text, string(debug.Stack())}
}

// Stack is what a log line about an error has beside it: the stack of a panic, nothing for any other.
func Stack(err error) []any {
	if p, ok := errors.AsType[*panicError](err); ok {
		return []any{"stack", p.stack}
	}
	return nil
}

// Tell logs a panic's value, which was just recovered, and its stack. It is to be called by the deferred function itself, or what that calls.
func Tell(logger *slog.Logger, message string, value any, args ...any) {
	defer func() { _ = recover() }() // the logger may be what panicked
	err := newError(value)
	logger.Error(message, append(append([]any{"panic", err.value}, args...), "stack", err.stack)...)
}
