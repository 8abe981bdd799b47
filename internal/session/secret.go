package session

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is text that must not be seen, such as a project's secret. Every way of printing, logging or marshalling it
// says "[redacted]"; only Reveal gives it away. Package fmt cannot call methods on unexported fields, so a struct that
// keeps a Secret in one must not be printed whole.
type Secret string

// Reveal returns the text.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// Format implements fmt.Formatter, for all verbs.
func (Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
