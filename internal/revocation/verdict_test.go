package revocation_test

import (
	"maps"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/revocation"
)

const (
	passes  = revocation.Clear
	ask     = revocation.Ask
	revoked = revocation.Revoked
)

// member is a JWT of a member's session, as a client presents it.
func member(issuedAt time.Time) revocation.Token {
	return revocation.Token{
		ProjectID: "project-1", SessionID: "session-1", Subject: "member-1", OrganizationID: "organization-1", IssuedAt: issuedAt,
	}
}

// asked is a JWT that the session API was asked for, and that says the same iat whatever the issuer's clock.
func asked(at time.Time) revocation.Token {
	t := member(start)
	t.AskedAt = at
	return t
}

func checkVerdict(t *testing.T, d *revocation.Denylist, token revocation.Token, now time.Time, want revocation.Verdict) {
	t.Helper()
	if got := d.Verdict(token, now); got != want {
		t.Errorf("issued at %v, asked for at %v: verdict %v, want %v", token.IssuedAt, token.AskedAt, got, want)
	}
}

// The kinds that go by a time are told apart by nothing but whom they concern.
var before = map[string]revocation.Revocation{
	"subject":      {ProjectID: "project-1", Subject: "member-1"},
	"organization": {ProjectID: "project-1", OrganizationID: "organization-1"},
	"project":      {ProjectID: "project-1", All: true},
}

func TestWhatWasIssuedBeforeIsRevoked(t *testing.T) {
	for _, test := range []struct {
		name      string
		at        time.Duration // of the moment before which it must have been issued, after start
		presented time.Duration // its iat, after start
		want      revocation.Verdict
	}{
		{"a minute before", 0, -time.Minute, revoked},
		{"a second before", 0, -time.Second, revoked},
		{"in the second that begins at the moment", 0, 0, ask},
		{"in the last second of the leeway, as by an issuer's clock that is ahead", 0, leeway - time.Second, ask},
		{"when the leeway is over", 0, leeway, passes},
		{"in the second of the moment, before it or after", 700 * time.Millisecond, 0, ask},
		{"in the second before", 700 * time.Millisecond, -time.Second, revoked},
		{"in the second in which the leeway ends", 700 * time.Millisecond, leeway, ask},
		{"in the second after", 700 * time.Millisecond, leeway + time.Second, passes},
		{"after, by an issuer's clock that is behind: the wrong side, and the safe one", 0, -3 * time.Second, revoked},
		{"by an issuer whose clock stepped far ahead", 0, time.Hour, passes},
	} {
		t.Run(test.name, func(t *testing.T) {
			for kind, r := range before {
				d := newDenylist(t, 10, nil)
				r.IssuedBefore = start.Add(test.at)
				d.Revoke(r, start.Add(time.Minute))
				if got := d.Verdict(member(start.Add(test.presented)), start.Add(time.Minute)); got != test.want {
					t.Errorf("%s: verdict %v, want %v", kind, got, test.want)
				}
			}
		})
	}
}

func TestWithoutLeewayOnlyTheSecondOfTheMomentIsAskedAbout(t *testing.T) {
	for fraction, want := range map[time.Duration]revocation.Verdict{0: passes, 1: ask} {
		d, err := revocation.New(revocation.Config{Retention: retention, Capacity: 10})
		if err != nil {
			t.Fatal(err)
		}
		d.Revoke(revocation.Revocation{ProjectID: "project-1", All: true, IssuedBefore: start.Add(fraction)}, start)
		checkVerdict(t, d, member(start.Add(-time.Second)), start, revoked)
		checkVerdict(t, d, member(start), start, want)
		checkVerdict(t, d, member(start.Add(time.Second)), start, passes)
	}
}

func TestAnAnswerOlderThanARevocationIsAskedForAgain(t *testing.T) {
	moment := start.Add(700 * time.Millisecond)
	for kind, r := range before {
		t.Run(kind, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			r.IssuedBefore = moment
			d.Revoke(r, moment)
			for at, want := range map[time.Time]revocation.Verdict{
				moment.Add(-time.Hour): ask,
				moment.Add(-1):         ask,
				moment:                 passes,
				moment.Add(time.Hour):  passes,
			} {
				for _, iat := range []time.Duration{-time.Hour, 0, time.Hour} {
					token := asked(at)
					token.IssuedAt = start.Add(iat)
					checkVerdict(t, d, token, moment, want)
				}
			}
		})
	}
}

func TestASessionEndsAsAWhole(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Revoke(revocation.Revocation{ProjectID: "project-1", SessionID: "session-1", IssuedBefore: start.Add(-time.Hour)}, start)
	for _, after := range []time.Duration{-time.Hour, 0, time.Hour} {
		checkVerdict(t, d, member(start.Add(after)), start, revoked)
		checkVerdict(t, d, asked(start.Add(after)), start, revoked)
	}
	other := member(start.Add(-time.Hour))
	other.SessionID = "session-2"
	checkVerdict(t, d, other, start, passes)
}

func TestOnlyWhomItConcernsIsRevoked(t *testing.T) {
	old := start.Add(-time.Minute)
	for kind, r := range before {
		t.Run(kind, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			d.Revoke(r, start)
			checkVerdict(t, d, member(old), start, revoked)

			stranger := member(old)
			stranger.ProjectID = "project-2"
			checkVerdict(t, d, stranger, start, passes)
			// Each id is that of the others' kind.
			stranger = revocation.Token{
				ProjectID: "project-1", SessionID: "member-1", Subject: "organization-1", OrganizationID: "session-1", IssuedAt: old,
			}
			want := passes
			if kind == "project" {
				want = revoked
			}
			checkVerdict(t, d, stranger, start, want)
			consumer := revocation.Token{ProjectID: "project-1", SessionID: "session-2", Subject: "user-1", IssuedAt: old}
			checkVerdict(t, d, consumer, start, want)
		})
	}
}

func TestTheSeverestVerdictCounts(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Revoke(revocation.Revocation{ProjectID: "project-1", Subject: "member-1", IssuedBefore: start.Add(-time.Minute)}, start)
	checkVerdict(t, d, member(start.Add(-2*time.Second)), start, passes)
	d.Revoke(revocation.Revocation{ProjectID: "project-1", All: true, IssuedBefore: start.Add(-4 * time.Second)}, start)
	checkVerdict(t, d, member(start.Add(-2*time.Second)), start, ask)
	d.Revoke(revocation.Revocation{ProjectID: "project-1", OrganizationID: "organization-1", IssuedBefore: start}, start)
	checkVerdict(t, d, member(start.Add(-2*time.Second)), start, revoked)
}

func TestOfSeveralTargetsTheWidestCounts(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Revoke(revocation.Revocation{ProjectID: "project-1", SessionID: "session-2", Subject: "member-2", OrganizationID: "organization-1"}, start)
	checkVerdict(t, d, member(start.Add(-time.Second)), start, revoked)
}

func TestTheLaterMomentCounts(t *testing.T) {
	for kind, r := range before {
		for _, order := range [][]time.Duration{{0, -time.Minute}, {-time.Minute, 0}, {0, 0}} {
			d := newDenylist(t, 10, nil)
			for _, at := range order {
				r.IssuedBefore = start.Add(at)
				d.Revoke(r, start)
			}
			checkVerdict(t, d, member(start.Add(-time.Second)), start, revoked)
			checkVerdict(t, d, asked(start.Add(-1)), start, ask)
			if got := d.Status().Entries; got != 1 {
				t.Errorf("%s: %d entries", kind, got)
			}
		}
	}
}

func TestARevocationLivesFromWhenItWasRecorded(t *testing.T) {
	for _, test := range []struct {
		name         string
		issuedBefore time.Time
		until        time.Time
	}{
		{"as of now", time.Time{}, start.Add(retention)},
		{"of the past", start.Add(-time.Hour), start.Add(retention)},
		{"of the near future, from then on", start.Add(leeway), start.Add(leeway + retention)},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, r := range before {
				d := newDenylist(t, 10, nil)
				r.IssuedBefore = test.issuedBefore
				if got := d.Revoke(r, start); !got.Equal(test.until) {
					t.Errorf("until %v, want %v", got, test.until)
				}
				old := member(start.Add(-2 * time.Hour))
				checkVerdict(t, d, old, start.Add(-time.Hour), revoked)
				checkVerdict(t, d, old, test.until.Add(-1), revoked)
				checkVerdict(t, d, old, test.until, passes)
			}
		})
	}
}

// By the wall clock, the answer that was asked for before the step is younger than the revocation after it.
func TestAnAnswerOlderThanARevocationIsAskedForAgainThoughTheClockSteppedBackBetween(t *testing.T) {
	askedFor := time.Now()
	told := stepped(askedFor.Add(time.Second), -time.Hour)
	for kind, r := range before {
		t.Run(kind, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			d.Revoke(r, told)
			checkVerdict(t, d, asked(askedFor), told, ask)
			checkVerdict(t, d, asked(told.Add(time.Second)), told, passes)
			// Nor does a revocation from before the step lose its moment to one from after it, or the other way round.
			d = newDenylist(t, 10, nil)
			d.Revoke(r, askedFor)
			d.Revoke(r, told)
			checkVerdict(t, d, member(askedFor.Add(-time.Second).Truncate(time.Second)), told, revoked)
			checkVerdict(t, d, asked(askedFor.Add(time.Millisecond)), told, ask)
		})
	}
	d := newDenylist(t, 1, nil)
	d.Revoke(before["subject"], told)
	end(d, numbered(1), told)
	checkVerdict(t, d, asked(askedFor), told, ask)
	checkVerdict(t, d, asked(told.Add(time.Second)), told, passes)
}

// stepped moves the wall clock of a time and leaves its monotonic clock alone, for which package time has no door.
func stepped(t time.Time, by time.Duration) time.Time {
	const nanosecondBits = 30
	wall := (*int64)(unsafe.Pointer(&t))
	*wall += int64(by/time.Second) << nanosecondBits
	return t
}

func TestSteppedMovesTheWallClockAlone(t *testing.T) {
	now := time.Now()
	then := stepped(now, -time.Hour)
	if got := then.Round(0).Sub(now.Round(0)); got != -time.Hour {
		t.Errorf("the wall clock moved by %v", got)
	}
	if got := then.Sub(now); got != 0 {
		t.Errorf("the monotonic clock moved by %v", got)
	}
}

func TestWhatGivesWayLeavesAFloorOfItsProject(t *testing.T) {
	const beforeItsMoment, inItsLeeway = -time.Second, leeway - time.Second
	for name, tell := range map[string]func(d *revocation.Denylist){
		"a session":             func(d *revocation.Denylist) { end(d, numbered(0), start) },
		"a doubt":               func(d *revocation.Denylist) { d.Doubt(numbered(0), start) },
		"a subject":             func(d *revocation.Denylist) { d.Revoke(before["subject"], start) },
		"an organization":       func(d *revocation.Denylist) { d.Revoke(before["organization"], start) },
		"a project":             func(d *revocation.Denylist) { d.Revoke(before["project"], start) },
		"a subject of the past": func(d *revocation.Denylist) { d.Revoke(withIssuedBefore("subject", -time.Hour), start) },
		"a subject of the future": func(d *revocation.Denylist) {
			d.Revoke(withIssuedBefore("subject", 0), start.Add(-leeway))
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			d := newDenylist(t, 1, reg)
			tell(d)
			checkMetrics(t, reg, 1, 0)
			now := start.Add(time.Minute)
			end(d, revocation.Session{ProjectID: "project-2", ID: "session-2"}, now)
			checkMetrics(t, reg, 1, 1)
			if got, want := d.Status(), (revocation.Status{Entries: 1, Floors: 1}); got != want {
				t.Errorf("holds %v, want %v", got, want)
			}
			for _, after := range []time.Duration{-time.Hour, beforeItsMoment, 0, inItsLeeway} {
				checkVerdict(t, d, member(start.Add(after)), now, ask)
			}
			checkVerdict(t, d, member(start.Add(leeway)), now, passes)
			checkVerdict(t, d, asked(start.Add(-1)), now, ask)
			checkVerdict(t, d, asked(start), now, passes)

			neighbour := member(start.Add(beforeItsMoment))
			neighbour.ProjectID = "project-2"
			checkVerdict(t, d, neighbour, now, passes)

			old := member(start.Add(beforeItsMoment))
			checkVerdict(t, d, old, start.Add(retention-1), ask)
			checkVerdict(t, d, old, start.Add(retention), passes)
			end(d, revocation.Session{ProjectID: "project-2", ID: "session-2"}, start.Add(retention))
			if got := d.Status().Floors; got != 0 {
				t.Errorf("%d floors after their time", got)
			}
		})
	}
}

func withIssuedBefore(kind string, after time.Duration) revocation.Revocation {
	r := before[kind]
	r.IssuedBefore = start.Add(after)
	return r
}

func TestAFloorOnlyRises(t *testing.T) {
	d := newDenylist(t, 1, nil)
	tell := func(i int, after time.Duration) { end(d, numbered(i), start.Add(after)) }
	tell(0, 0)
	tell(1, time.Minute)
	tell(2, -time.Minute) // by a clock that stepped back; evicts the one of a minute after
	tell(3, 0)            // evicts the one of a minute before
	checkVerdict(t, d, member(start.Add(time.Minute)), start, ask)
	checkVerdict(t, d, member(start.Add(time.Minute)), start.Add(time.Minute+retention-1), ask)
	checkVerdict(t, d, member(start.Add(time.Minute)), start.Add(time.Minute+retention), passes)
}

func TestAFloorDoesNotHideARevocation(t *testing.T) {
	d := newDenylist(t, 1, nil)
	end(d, numbered(0), start)
	d.Revoke(before["subject"], start.Add(time.Second))
	checkVerdict(t, d, member(start.Add(-time.Second)), start.Add(time.Second), revoked)
}

func TestWhatIsOverLeavesNoFloor(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 1, reg)
	end(d, numbered(0), start)
	end(d, numbered(1), start.Add(retention))
	checkMetrics(t, reg, 1, 0)
	checkVerdict(t, d, member(start.Add(-time.Second)), start.Add(retention), passes)
}

func TestRevocationsAreCountedByKind(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 10, reg)
	for _, r := range before {
		d.Revoke(r, start)
		d.Revoke(r, start)
	}
	for i := range 3 {
		d.Doubt(numbered(i), start)
	}
	end(d, numbered(0), start) // no doubt any more
	d.Doubt(numbered(0), start)
	end(d, numbered(3), start)
	want := map[string]float64{"doubt": 2, "organization": 1, "project": 1, "session": 2, "subject": 1}
	if got := gather(t, reg)["authz_revocations"]; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
