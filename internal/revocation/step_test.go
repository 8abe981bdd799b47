package revocation_test

import (
	"testing"
	"time"

	"authz-sidecar/internal/revocation"
)

// recorded has a monotonic reading, and its wall clock a whole second, as an iat has.
var recorded = func() time.Time {
	now := time.Now()
	return now.Add(now.Truncate(time.Second).Add(time.Second).Sub(now.Round(0)))
}()

// kinds are all ways to revoke what member has.
var kinds = map[string]revocation.Revocation{
	"session":      {ProjectID: "project-1", SessionID: "session-1"},
	"subject":      before["subject"],
	"organization": before["organization"],
	"project":      before["project"],
}

// old is a JWT from before recorded, and young one from after it, both by a service whose clock does not step.
var old, young = member(recorded.Add(-time.Minute).Round(0)), member(recorded.Add(leeway + time.Second).Round(0))

func TestAWallClockThatRunsAheadForAWhileTakesNothingAlong(t *testing.T) {
	for kind, r := range kinds {
		t.Run(kind, func(t *testing.T) {
			d := newDenylist(t, 2, nil)
			d.Revoke(r, recorded)
			for _, ahead := range []time.Duration{retention, time.Hour, 1e4 * time.Hour} {
				now := stepped(recorded.Add(time.Minute), ahead)
				checkVerdict(t, d, old, now, revoked)
				d.Revoke(r, now) // which looks for what is over
				d.Doubt(revocation.Session{ProjectID: r.ProjectID, ID: "session-1"}, now)
				checkVerdict(t, d, old, now, revoked)
			}
			checkVerdict(t, d, old, recorded.Add(retention-1), revoked)
		})
		t.Run(kind+", and there was no room", func(t *testing.T) {
			d := newDenylist(t, 1, nil)
			d.Revoke(r, recorded)
			end(d, numbered(1), stepped(recorded.Add(time.Minute), time.Hour))
			checkVerdict(t, d, old, stepped(recorded.Add(time.Minute), time.Hour), ask)
			checkVerdict(t, d, old, recorded.Add(time.Minute), ask)
		})
		t.Run(kind+", whose time is over by both clocks", func(t *testing.T) {
			d := newDenylist(t, 1, nil)
			d.Revoke(r, recorded)
			checkVerdict(t, d, old, recorded.Add(retention), passes)
			checkVerdict(t, d, old, stepped(recorded.Add(retention), -time.Second), revoked)
		})
	}
}

// JWTs that expired by the wall clock, and whose revocation was dropped for that, are young again.
func TestWhatWasDroppedInTimeIsAskedAboutWhereTheWallClockStepsBack(t *testing.T) {
	over := recorded.Add(retention)
	back := stepped(over, -time.Hour)
	for name, capacity := range map[string]int{"an entry": 10, "a floor": 1} {
		t.Run(name, func(t *testing.T) {
			d := newDenylist(t, capacity, nil)
			end(d, one, recorded)
			end(d, numbered(1), recorded)
			checkVerdict(t, d, old, over, passes)
			end(d, revocation.Session{ProjectID: "project-2", ID: "session-2"}, over) // drops them
			if got, want := d.Status(), (revocation.Status{Entries: 1}); got != want {
				t.Errorf("holds %v, want %v", got, want)
			}
			checkVerdict(t, d, old, over, passes)
			checkVerdict(t, d, old, back, ask)
			checkVerdict(t, d, young, back, passes)
			checkVerdict(t, d, asked(recorded.Add(-1)), back, ask)
			checkVerdict(t, d, asked(recorded.Add(time.Second)), back, passes)
			checkVerdict(t, d, old, stepped(over, -1e6*time.Hour), ask)
		})
	}
	t.Run("a floor of a moment ahead", func(t *testing.T) {
		d := newDenylist(t, 1, nil)
		r := kinds["subject"]
		r.IssuedBefore = recorded.Add(leeway)
		d.Revoke(r, recorded)
		end(d, numbered(1), recorded)
		over := over.Add(leeway)
		end(d, numbered(2), over)
		checkVerdict(t, d, young, over, passes)
		checkVerdict(t, d, young, stepped(over, -time.Hour), ask)
	})
	t.Run("one that was told again when it was over", func(t *testing.T) {
		d := newDenylist(t, 10, nil)
		d.Revoke(kinds["subject"], recorded)
		d.Doubt(one, recorded)
		d.Doubt(one, over)
		checkVerdict(t, d, old, over, passes)
		checkVerdict(t, d, old, back, ask)
	})
}

// By the wall clock, which ran ahead, the answer is younger than the moment that another machine names.
func TestAnAnswerOlderThanANamedMomentIsAskedForAgainThoughTheWallClockRanAhead(t *testing.T) {
	askedFor := stepped(recorded.Add(-time.Minute), time.Hour)
	for kind, r := range before {
		t.Run(kind, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			r.IssuedBefore = recorded.Round(0)
			now := recorded.Add(time.Second)
			d.Revoke(r, now)
			checkVerdict(t, d, asked(askedFor), now, ask)
			checkVerdict(t, d, asked(recorded.Add(-1)), now, ask)
			checkVerdict(t, d, asked(recorded), now, passes)
			checkVerdict(t, d, asked(stepped(recorded.Add(2*time.Second), -time.Hour)), now, passes)
		})
	}
}

// The wall clock is behind, but the service's has been heard: JWTs pass by that.
func TestWhatIsRecordedByAWallClockThatIsBehindMissesNothingIfTheServicesIsKnown(t *testing.T) {
	const behind = 10 * time.Minute
	now := stepped(recorded, -behind)
	for kind, r := range kinds {
		for name, issuedBefore := range map[string]time.Time{"as of now": {}, "as of a named moment": recorded.Round(0)} {
			t.Run(kind+", "+name, func(t *testing.T) {
				d, err := revocation.New(revocation.Config{
					Retention: retention, Leeway: leeway, Capacity: 1,
					Service: func(projectID string, now time.Time) time.Time {
						if projectID != "project-1" {
							return now
						}
						return now.Round(0).Add(behind)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				r.IssuedBefore = issuedBefore
				if got, want := d.Revoke(r, now), recorded.Add(retention); !got.Equal(want) {
					t.Errorf("until %v, want %v", got, want)
				}
				healed := recorded.Add(time.Second)
				for _, now := range []time.Time{now, healed} {
					checkVerdict(t, d, old, now, revoked)
					if kind != "session" {
						checkVerdict(t, d, young, now, passes)
						checkVerdict(t, d, asked(recorded.Add(-1)), now, ask)
						checkVerdict(t, d, asked(recorded.Add(1)), now, passes)
					}
				}
				end(d, revocation.Session{ProjectID: "project-2", ID: "session-2"}, now)
				checkVerdict(t, d, old, healed, ask)
				checkVerdict(t, d, young, healed, passes)
			})
		}
	}
}

func TestALongerRetentionAsksAboutWhatTheShorterOneHasDropped(t *testing.T) {
	const longer = time.Hour
	over := recorded.Add(retention)
	drop := revocation.Session{ProjectID: "project-2", ID: "session-2"}
	for name, capacity := range map[string]int{"an entry": 10, "a floor": 1} {
		t.Run(name, func(t *testing.T) {
			d := newDenylist(t, capacity, nil)
			end(d, one, recorded)
			end(d, numbered(1), recorded)
			end(d, drop, over)
			checkVerdict(t, d, old, over, passes)
			d.Reconfigure(longer, leeway, over)
			neighbour := old
			neighbour.ProjectID = "project-3"
			for _, token := range []revocation.Token{old, neighbour} {
				checkVerdict(t, d, token, over, ask)
				checkVerdict(t, d, token, recorded.Add(longer-1), ask)
				checkVerdict(t, d, token, recorded.Add(longer), passes)
			}
			checkVerdict(t, d, young, over, passes)
			checkVerdict(t, d, asked(recorded.Add(time.Second)), over, passes)
		})
	}
	t.Run("nothing was dropped", func(t *testing.T) {
		d := newDenylist(t, 10, nil)
		end(d, numbered(1), recorded)
		d.Reconfigure(longer, leeway, over)
		checkVerdict(t, d, old, over, passes)
	})
	t.Run("what is held counts for longer", func(t *testing.T) {
		d := newDenylist(t, 10, nil)
		end(d, one, recorded)
		d.Reconfigure(longer, leeway, recorded)
		checkVerdict(t, d, old, recorded.Add(longer-1), revoked)
		checkVerdict(t, d, old, recorded.Add(longer), passes)
	})
}

func TestALongerLeewayCountsForWhatIsHeld(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Revoke(before["subject"], recorded)
	checkVerdict(t, d, young, recorded, passes)
	d.Reconfigure(retention, 2*leeway, recorded)
	checkVerdict(t, d, young, recorded, ask)
	checkVerdict(t, d, member(recorded.Add(2*leeway)), recorded, passes)
}

func TestNeitherRetentionNorLeewaySinks(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Revoke(before["subject"], recorded)
	d.Reconfigure(time.Second, 0, recorded)
	checkVerdict(t, d, old, recorded.Add(retention-1), revoked)
	checkVerdict(t, d, member(recorded.Add(leeway-time.Second)), recorded, ask)
	var none *revocation.Denylist
	none.Reconfigure(retention, leeway, recorded)
}
