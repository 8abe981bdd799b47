package sessionapitest

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
)

// Transport makes calls to the emulator without a socket: what it is given, whatever host it is for, is served by
// ServeHTTP in this process. A fault that ends the connection is an error, as is ctx's end while a fault holds the request.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ server *Server }

// RoundTrip serves in the caller's goroutine: nothing in the emulator waits but for the request's context.
func (t transport) RoundTrip(r *http.Request) (response *http.Response, err error) {
	ctx := r.Context()
	served := r.Clone(ctx)
	if served.Body == nil {
		served.Body = http.NoBody
	}
	defer served.Body.Close()
	if served.Header == nil {
		served.Header = http.Header{}
	}
	served.Method = cmp.Or(r.Method, http.MethodGet)
	served.Host = cmp.Or(r.Host, r.URL.Host)
	served.RequestURI = r.URL.RequestURI()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer func() {
		switch v := recover(); {
		case v == nil:
		case ctx.Err() != nil:
			response, err = nil, ctx.Err()
		case v == http.ErrAbortHandler: // by a fault
			response, err = nil, fmt.Errorf("emulator: connection closed: %w", io.EOF)
		default:
			panic(v)
		}
	}()
	w := &responseWriter{header: http.Header{}}
	t.server.ServeHTTP(w, served)
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// responseWriter keeps a response.
type responseWriter struct {
	header, sent http.Header
	status       int
	body         bytes.Buffer
}

func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader counts once; the headers are those of that moment.
func (w *responseWriter) WriteHeader(status int) {
	if w.sent == nil {
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *responseWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
