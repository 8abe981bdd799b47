package subject

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// ProjectID is the emulated project's, as long as a real one's.
const ProjectID = "project-live-c60c0abe-c25a-4472-a9ed-320c6667d317"

const sessionClaim = "https://stytch.com/session"

// factors are two, as a session of somebody careful has them.
var factors = []sessionapitest.Factor{
	{"type": "magic_link", "delivery_method": "email",
		"email_factor": map[string]any{"email_id": "email-live-4cf8a2b9-1d2e-4c55-9c5d-2a7b4a3b2f10", "email_address": "someone.somewhere@example.com"}},
	{"type": "totp", "delivery_method": "authenticator_app",
		"authenticator_app_factor": map[string]any{"totp_id": "totp-live-b3e1d6f0-5a0c-4a39-8d4c-90aaf0b1c2d3"}},
}

// spare is what a hole has beyond the first token and its cookie's name: the emulator's times are not all equally long.
const spare = 64

// newTokens makes the template for the tokens that the session service mints now.
func (s *Stage) newTokens() error {
	login, err := s.LogIn()
	if err != nil {
		return err
	}
	if s.tokens.claims, err = s.Service.Claims(login.SessionID, time.Now()); err != nil {
		return err
	}
	if s.Template, err = newTemplate(len(login.JWT) + len(JWTCookie) + spare); err != nil {
		return err
	}
	s.tokens.file, err = os.Create(s.Path(".tokens"))
	return err
}

// LogIn starts a session, which the service knows and can refresh.
func (s *Stage) LogIn() (sessionapitest.Login, error) {
	return s.Service.LogIn(sessionapitest.LogIn{Factors: factors})
}

// Token is the genuine token of that number, unexpired for the whole run. Of its session the service knows nothing.
func (s *Stage) Token(number int) (string, error) { return s.Service.Sign(nil, s.claims(number)) }

func (s *Stage) claims(number int) map[string]any {
	claims := maps.Clone(s.tokens.claims)
	session := maps.Clone(claims[sessionClaim].(map[string]any))
	session["id"] = SessionID(number)
	claims[sessionClaim], claims["sub"] = session, Subject(number)
	return claims
}

// expired is a genuine token that expired an hour ago, of a session that the service does not know.
func (s *Stage) expired() (string, error) {
	claims := s.claims(1 << 31) // nobody else's session: the sidecar will remember that it ended
	issued := time.Now().Add(-2 * tokenLifetime).Unix()
	claims["iat"], claims["nbf"], claims["exp"] = issued, issued, issued+int64(tokenLifetime/time.Second)
	return s.Service.Sign(nil, claims)
}

// Subject and SessionID are those of the token of that number.
func Subject(number int) string {
	return fmt.Sprintf("user-live-%08x-fff7-4b3c-9b31-ead3fbc224de", number)
}
func SessionID(number int) string {
	return fmt.Sprintf("session-live-%08x-0dc0-4edb-a4bb-e70210f43555", number)
}

// Forged is a token like a genuine one whose signature is not of the project's key; each number makes another. It costs whoever
// refuses it one RSA verification.
func Forged(genuine string, number int) string {
	dot := strings.LastIndexByte(genuine, '.')
	signature, err := base64.RawURLEncoding.DecodeString(genuine[dot+1:])
	if err != nil {
		panic("a minted token has no signature")
	}
	// The last bytes, so that the number it stands for stays below the modulus.
	last := signature[len(signature)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)^uint32(number+1))
	return genuine[:dot+1] + base64.RawURLEncoding.EncodeToString(signature)
}

// Credentials is a file of fillings for the template's hole, one after the other.
type Credentials struct {
	File  string
	First int // of the fillings in the file that belong to these
	Count int
}

// Tokens are the tokens of the numbers from 0 to count−1. They are minted once in a run.
func (s *Stage) Tokens(count int) (Credentials, error) {
	s.tokens.Lock()
	defer s.tokens.Unlock()
	if missing := count - s.tokens.count; missing > 0 {
		if missing > 1000 {
			s.Logf("minting %d tokens", missing)
		}
		if err := s.write(s.tokens.file, s.tokens.count, missing, s.Token); err != nil {
			return Credentials{}, err
		}
		s.tokens.count = count
	}
	return Credentials{File: s.tokens.file.Name(), Count: count}, nil
}

// Of are credentials of any kind; "" is none.
func (s *Stage) Of(count int, token func(number int) (string, error)) (Credentials, error) {
	file, err := os.Create(s.Path(".tokens"))
	if err != nil {
		return Credentials{}, err
	}
	defer file.Close()
	return Credentials{File: file.Name(), Count: count}, s.write(file, 0, count, token)
}

// Forged are credentials with forged signatures, all distinct.
func (s *Stage) Forged(count int) (Credentials, error) {
	genuine, err := s.Token(0)
	if err != nil {
		return Credentials{}, err
	}
	return s.Of(count, func(number int) (string, error) { return Forged(genuine, number), nil })
}

// None is a request without a credential.
func (s *Stage) None() (Credentials, error) {
	return s.Of(1, func(int) (string, error) { return "", nil })
}

// Old are tokens that expired an hour ago, of sessions that live: the service trades them for new ones.
func (s *Stage) Old(count int) (Credentials, error) {
	return s.Of(count, func(int) (string, error) {
		login, err := s.LogIn()
		if err != nil {
			return "", err
		}
		return s.Service.Mint(login.SessionID, time.Now().Add(-2*tokenLifetime))
	})
}

// Expiring are tokens that all expire at one instant, of sessions that live.
func (s *Stage) Expiring(count int, at time.Time) (Credentials, error) {
	return s.Of(count, func(int) (string, error) {
		login, err := s.LogIn()
		if err != nil {
			return "", err
		}
		return s.Service.Mint(login.SessionID, at.Add(-tokenLifetime))
	})
}

// write makes tokens on all cores, and puts their fillings into the file.
func (s *Stage) write(file *os.File, first, count int, token func(number int) (string, error)) error {
	var workers sync.WaitGroup
	var failed error
	var mu sync.Mutex // guards failed
	n := min(runtime.NumCPU(), count)
	for worker := range n {
		workers.Go(func() {
			for i := first + worker; i < first+count; i += n {
				jwt, err := token(i)
				if fill := s.Template.fill(jwt); err == nil && len(fill) != s.Template.Hole {
					err = fmt.Errorf("a token of %d bytes does not fit", len(jwt))
				} else if err == nil {
					_, err = file.WriteAt(fill, int64(i*s.Template.Hole))
				}
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	workers.Wait()
	return failed
}
