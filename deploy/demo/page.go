package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// page is where the story is written, at most width columns wide.
type page struct {
	w     io.Writer
	color bool
}

const (
	width  = 100
	margin = 10 // of what stands beside a label
)

// The colours (ECMA-48, SGR).
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (p *page) paint(color, text string) string {
	if !p.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (p *page) title(number int, text string) {
	fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, fmt.Sprintf("%d  %s", number, text)))
}

// row writes lines beside a label.
func (p *page) row(label, color string, lines ...string) {
	for _, line := range lines {
		for _, piece := range wrap(shorten(line), width-margin) {
			fmt.Fprintf(p.w, "   %s%s%s\n", p.paint(color, label), strings.Repeat(" ", margin-3-len([]rune(label))), piece)
			label = ""
		}
	}
}

// wrap breaks text at spaces; a longer word stays whole.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

var jwts = regexp.MustCompile(`eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+`)

// shorten leaves of each JWT what tells it from another: the end of its signature.
func shorten(text string) string {
	return jwts.ReplaceAllStringFunc(text, func(jwt string) string { return "eyJ…" + jwt[len(jwt)-6:] })
}
