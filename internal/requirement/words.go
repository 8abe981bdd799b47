package requirement

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxWord is how many bytes of a name or value are shown: enough for the vendor's ids, too few to fill a log.
	maxWord = 64
	// maxWords is how many of several are shown.
	maxWords = 16
)

// word returns a name as it is if nothing about it can mislead a reader, else quoted.
func word(s string) string {
	q := quote(s)
	if s != "" && q[1:len(q)-1] == s && !strings.ContainsAny(s, " ,()") {
		return s
	}
	return q
}

// quote returns a value in quotes, escaped and shortened.
func quote(s string) string {
	if len(s) <= maxWord {
		return strconv.Quote(s)
	}
	n := maxWord
	for n > maxWord-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return strconv.Quote(s[:n]) + "…"
}

// words lists names.
func words(names []string) string { return list(names, word) }

func list(items []string, show func(string) string) string {
	var b strings.Builder
	for i, item := range items {
		if i == maxWords {
			b.WriteString(" and " + strconv.Itoa(len(items)-i) + " more")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(show(item))
	}
	return b.String()
}
