package main

import (
	"testing"
	"time"
)

// The oracle is what the soak stands on: it must take a wrong answer for one, and a right one for right.

var app, recent, now, editors, strict, lenient, public, optional = routes[0], routes[3], routes[4], routes[5], routes[6], routes[7], routes[1], routes[2]

// scene is an oracle that has known one key for long, and a session with a JWT that is young and one that is old.
type scene struct {
	*oracle
	at      time.Time
	session *session
	young   *jwt
	old     *jwt
}

func newScene() *scene {
	at := time.Now()
	s := &scene{oracle: newOracle(), at: at}
	s.session = &session{id: "session-test-1", subject: "user-test-1", token: "token", expires: at.Add(time.Hour)}
	s.young = &jwt{kid: "k", sessionID: s.session.id, issued: at.Add(-time.Second), expires: at.Add(lifetime - time.Second)}
	s.old = &jwt{kid: "k", sessionID: s.session.id, issued: at.Add(-time.Minute), expires: at.Add(lifetime - time.Minute)}
	s.keys["k"] = &key{created: at.Add(-time.Hour)}
	return s
}

func (s *scene) ago(from, to time.Duration) span { return span{s.at.Add(-from), s.at.Add(-to)} }

func (s *scene) permits(r *route, c card) answer {
	if c.kind == honest || c.kind == forged {
		c.session = s.session
	}
	return s.permitted(asked{route: r, card: c, from: s.at, to: s.at.Add(10 * time.Millisecond)})
}

func TestOracleKnowsWhichAnswersAreRight(t *testing.T) {
	for name, c := range map[string]struct {
		truth func(s *scene)
		route *route
		card  func(s *scene) card
		want  answer
	}{
		"a young JWT passes":                              {nil, app, young, allowed},
		"an old one is refreshed":                         {nil, app, old, allowed},
		"an old one where the client is to refresh it":    {nil, strict, old, expired},
		"a young one where the API is asked each time":    {nil, now, young, allowed},
		"a token passes":                                  {nil, app, token, allowed},
		"a reader is no editor":                           {nil, editors, young, forbidden},
		"an editor is one":                                {func(s *scene) { s.session.editor = true }, editors, young, allowed},
		"nothing is no credential":                        {nil, app, bare(nothing), noCredential},
		"nothing is anonymous where that is enough":       {nil, optional, bare(nothing), anonymous},
		"a public page is anybody's":                      {nil, public, young, anonymous},
		"a forgery never passes":                          {apiDown, app, func(s *scene) card { return card{kind: forged, jwts: []*jwt{s.young}} }, invalid},
		"garbage never passes, nor is it a fault":         {apiDown, app, bare(garbage), invalid},
		"a made-up token is none":                         {nil, app, bare(madeUpToken), invalid},
		"a made-up token, in an outage":                   {apiDown, app, bare(madeUpToken), invalid | unavailable},
		"an outage is no excuse for a young JWT":          {apiDown, app, young, allowed},
		"an outage is one for an old one":                 {apiDown, app, old, allowed | unavailable},
		"an outage is one where the API is asked":         {apiDown, now, young, allowed | unavailable},
		"an outage is one for a token":                    {apiDown, app, token, allowed | unavailable},
		"an outage that is long over is none":             {func(s *scene) { s.was(s.ago(time.Minute, apiTail+time.Second), apiTrouble) }, app, token, allowed},
		"keys that cannot be had are none for known ones": {keysDown, app, young, allowed},
		"a new key may be unknown for a moment":           {func(s *scene) { s.keys["k"].created = s.at.Add(-time.Second) }, app, young, allowed | unavailable},
		"and as long as it cannot be had": {func(s *scene) {
			s.keys["k"].created = s.at.Add(-time.Minute)
			s.was(s.ago(62*time.Second, time.Second), keysTrouble)
		}, app, young, allowed | unavailable},
		"a withdrawn key may be known for a moment":                       {withdrawn(time.Second), app, young, allowed | unavailable | invalid},
		"and then no more":                                                {withdrawn(time.Minute), app, young, unavailable | invalid},
		"beside a token it does no harm":                                  {withdrawn(time.Minute), app, both, allowed | unavailable},
		"a session that the API has ended may pass until its JWT expires": {revokedFor(time.Minute), app, young, allowed | invalid},
		"but not where the API is asked":                                  {revokedFor(time.Minute), now, young, invalid},
		"nor by an old JWT that nobody has refreshed in time":             {revokedFor(time.Minute), app, old, invalid},
		"but by the kept exchange of one":                                 {revokedFor(2 * time.Second), app, old, allowed | invalid},
		"which is too old where 5 s are the most":                         {revokedFor(12 * time.Second), recent, old, invalid},
		"nor by a token":                                                  {revokedFor(time.Minute), app, token, invalid},
		"a session that the operator has ended does not pass":             {told, app, young, invalid},
		"nor by a token, whatever the API says":                           {told, app, token, invalid},
		"but until a new process is told":                                 {func(s *scene) { told(s); s.was(s.ago(time.Second, -time.Second), amnesia) }, app, young, allowed | invalid},
		"a session that was refused once does not pass":                   {func(s *scene) { revokedFor(9 * time.Second)(s); s.session.out = s.at.Add(-time.Second) }, app, young, invalid},
		"a session that is over does not pass, though its JWT is not":     {func(s *scene) { s.session.expires = s.at.Add(-30 * time.Second) }, app, young, invalid},
		"grace in an outage":                                              {func(s *scene) { apiDown(s); s.old.expires = s.at.Add(-5 * time.Second) }, lenient, old, allowed | unavailable},
		"no grace for a session that is over, though the API cannot tell": {func(s *scene) { apiDown(s); s.session.expires = s.at.Add(-30 * time.Second) }, lenient, old, invalid | unavailable},
		"no grace for long, of a session that the API may know has ended": {func(s *scene) { apiDown(s); revokedFor(time.Minute)(s) }, lenient, old, invalid | unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			if c.truth != nil {
				c.truth(s)
			}
			if got := s.permits(c.route, c.card(s)); got != c.want {
				t.Errorf("permits %s, want %s", got, c.want)
			}
		})
	}
}

func young(s *scene) card { return card{kind: honest, jwts: []*jwt{s.young}} }
func old(s *scene) card   { return card{kind: honest, jwts: []*jwt{s.old}} }
func token(s *scene) card { return card{kind: honest, token: s.session.token} }
func both(s *scene) card {
	return card{kind: honest, token: s.session.token, jwts: []*jwt{s.young}}
}
func bare(k kind) func(*scene) card { return func(*scene) card { return card{kind: k} } }

func apiDown(s *scene)  { s.was(s.ago(time.Second, -time.Second), apiTrouble) }
func keysDown(s *scene) { s.was(s.ago(time.Minute, -time.Second), keysTrouble) }
func told(s *scene)     { s.session.told = s.ago(time.Second, time.Second) }

func revokedFor(d time.Duration) func(*scene) {
	return func(s *scene) { s.session.revoked = s.ago(d, d) }
}

func withdrawn(since time.Duration) func(*scene) {
	return func(s *scene) { s.keys["k"].withdrawn = s.ago(since, since) }
}
