package sessionapi

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted makes what it is embedded in print as "[redacted]".
type redacted struct{}

const redaction = "[redacted]"

// Format implements fmt.Formatter, for all verbs.
func (redacted) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redaction) }

// LogValue implements slog.LogValuer.
func (redacted) LogValue() slog.Value { return slog.StringValue(redaction) }

// MarshalText implements encoding.TextMarshaler, and so JSON and YAML.
func (redacted) MarshalText() ([]byte, error) { return []byte(redaction), nil }
