package sessionapitest

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxBody caps a request's body: the largest honest one carries 4 KB of custom claims and a JWT that holds them.
const maxBody = 64 << 10

// apiError is an answer of the vendor's that is not a 200. The kinds are the vendor's error_types
// (https://stytch.com/docs/api/errors).
type apiError struct {
	status        int
	kind, message string
}

var (
	errCredentials     = &apiError{http.StatusUnauthorized, "unauthorized_credentials", "Unauthorized credentials."}
	errSessionNotFound = &apiError{http.StatusNotFound, "session_not_found", "Session could not be found."}
	errUnparsableJWT   = &apiError{http.StatusBadRequest, "unable_to_parse_session_jwt", "The session JWT could not be parsed."}
	errTooManySessions = &apiError{http.StatusBadRequest, "too_many_session_arguments", "Give one of session_token and session_jwt, not both."}
	errNoSession       = &apiError{http.StatusBadRequest, "no_session_arguments", "Give one of session_token and session_jwt."}
	errInternal        = &apiError{http.StatusInternalServerError, "internal_server_error", "Oops, something seems to have gone wrong."}
	errUserNotFound    = &apiError{http.StatusNotFound, "user_not_found", "User could not be found."}
	errMemberNotFound  = &apiError{http.StatusNotFound, "member_not_found", "Member could not be found."}
	errProjectNotFound = &apiError{http.StatusNotFound, "project_not_found", "Project could not be found."}
	errNoOrganization  = &apiError{http.StatusNotFound, "organization_not_found", "Organization could not be found."}
)

func errBadRequest(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

// envelope is what every answer of the vendor's carries.
type envelope struct {
	StatusCode int    `json:"status_code"`
	RequestID  string `json:"request_id"`
}

func (e *envelope) seal(requestID string) { e.StatusCode, e.RequestID = http.StatusOK, requestID }

// answer is a 200 before it is sealed.
type answer interface{ seal(requestID string) }

// endpoint is one of the vendor's: it answers or refuses.
type endpoint func(r *http.Request) (answer, *apiError)

// route serves an endpoint, counted and breakable.
func (s *Server) route(pattern string, name Endpoint, serve endpoint) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if s.faults.meet(w, r, name) {
			return
		}
		a, refusal := serve(r)
		if refusal != nil {
			s.refuse(w, refusal)
			return
		}
		a.seal(s.newID("request-id"))
		writeJSON(w, http.StatusOK, a)
	})
}

// authorized asks for the project's id and secret first (HTTP Basic, RFC 7617).
func (s *Server) authorized(serve endpoint) endpoint {
	return func(r *http.Request) (answer, *apiError) {
		id, secret, _ := r.BasicAuth()
		right := subtle.ConstantTimeCompare([]byte(id), []byte(s.config.ProjectID)) &
			subtle.ConstantTimeCompare([]byte(secret), []byte(s.config.Secret))
		if right != 1 {
			return nil, errCredentials
		}
		return serve(r)
	}
}

func (s *Server) refuse(w http.ResponseWriter, e *apiError) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	io.WriteString(w, s.ErrorBody(e.status, e.kind, e.message))
}

// ErrorBody is an error as the vendor words it, for a Fault's Body.
func (s *Server) ErrorBody(status int, errorType, message string) string {
	docs := "https://stytch.com/docs/api/errors"
	if s.isB2B() {
		docs = "https://stytch.com/docs/b2b/api/errors"
	}
	return string(mustJSON(struct {
		envelope
		ErrorType    string `json:"error_type"`
		ErrorMessage string `json:"error_message"`
		ErrorURL     string `json:"error_url"`
	}{
		envelope{status, s.newID("request-id")}, errorType, message, fmt.Sprintf("%s/%d#%s", docs, status, errorType),
	}))
}

// readBody decodes a vendor's request. Unknown fields pass, as they do with the vendor.
func readBody(r *http.Request, into any) *apiError {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &apiError{http.StatusRequestEntityTooLarge, "bad_request", fmt.Sprintf("The request is larger than %d bytes.", maxBody)}
	}
	if err != nil {
		return errBadRequest("The request could not be read.")
	}
	if err := json.Unmarshal(body, into); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return errBadRequest("%s must not be of type %s.", wrong.Field, wrong.Value)
		}
		return errBadRequest("The request is not a JSON object.")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(mustJSON(v), '\n'))
}

// mustJSON is for values of this package's own types, which hold nothing that JSON cannot.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
