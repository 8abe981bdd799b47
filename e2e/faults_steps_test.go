package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// verbs are the words that begin a step; testdata/faults/README.txt says what each does.
var verbs map[string]func(ctx context.Context, p *play, rest string) error

func init() { // verbs needs what needs verbs
	verbs = map[string]func(ctx context.Context, p *play, rest string) error{
		"session": func(ctx context.Context, p *play, rest string) error {
			name, text, _ := strings.Cut(rest, " ")
			var who sessionapitest.LogIn
			if text != "" {
				if err := json.Unmarshal([]byte(text), &who); err != nil {
					return err
				}
			}
			return p.credentials.logInAll(ctx, p.rig, name, 1, who)
		},
		"sessions": func(ctx context.Context, p *play, rest string) error {
			name, n, err := nameAndNumber(rest)
			if err != nil {
				return err
			}
			return p.credentials.logInAll(ctx, p.rig, name, n, sessionapitest.LogIn{})
		},
		"make-up": func(ctx context.Context, p *play, rest string) error {
			what, rest, _ := strings.Cut(rest, " ")
			name, n, err := nameAndNumber(rest)
			if err != nil {
				return err
			}
			honest, err := p.rig.Emulator.Control.LogIn(ctx, sessionapitest.LogIn{})
			if err != nil {
				return err
			}
			return p.credentials.makeUp(what, name, n, honest.JWT)
		},

		"fault": func(ctx context.Context, p *play, rest string) error {
			endpoint, text, _ := strings.Cut(rest, " ")
			var fault sessionapitest.Fault
			if err := json.Unmarshal([]byte(text), &fault); err != nil {
				return err
			}
			return p.rig.Emulator.Control.SetFault(ctx, sessionapitest.Endpoint(endpoint), fault)
		},
		"mend": func(ctx context.Context, p *play, rest string) error { return p.rig.Emulator.Control.ClearFaults(ctx) },
		"rotate": func(ctx context.Context, p *play, rest string) error {
			_, err := p.rig.Emulator.Control.RotateKeys(ctx, rest == "with overlap")
			return err
		},
		"revoke": func(ctx context.Context, p *play, rest string) error {
			return p.rig.Emulator.Control.Revoke(ctx, p.credentials.session(rest))
		},
		"proxy":    func(ctx context.Context, p *play, rest string) error { return p.proxy(rest) },
		"impostor": func(ctx context.Context, p *play, rest string) error { return p.impostorDo(rest) },

		"ask":   func(ctx context.Context, p *play, rest string) error { return p.ask(ctx, rest) },
		"await": func(ctx context.Context, p *play, rest string) error { return p.await(ctx, rest) },
		"leave": func(ctx context.Context, p *play, rest string) error { return p.leave(ctx, rest) },
		"load":  func(ctx context.Context, p *play, rest string) error { return p.load(ctx, rest) },
		"burst": func(ctx context.Context, p *play, rest string) error { return p.burstOf(ctx, rest) },
		"wait": func(ctx context.Context, p *play, rest string) error {
			d, err := time.ParseDuration(rest)
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(d):
				return nil
			}
		},

		"serve": func(ctx context.Context, p *play, rest string) error {
			how, arguments, _ := strings.Cut(rest, " ")
			if how != "ready" && how != "unready" {
				return errors.New("want ready or unready first")
			}
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			return p.rig.Serve(ctx, how == "ready", strings.Fields(arguments)...)
		},
		"kill":   func(ctx context.Context, p *play, rest string) error { p.rig.Sidecar.Kill(); return nil },
		"stop":   func(ctx context.Context, p *play, rest string) error { return p.rig.Sidecar.Stop() },
		"ended":  func(ctx context.Context, p *play, rest string) error { return p.rig.Sidecar.Wait(15 * time.Second) },
		"signal": func(ctx context.Context, p *play, rest string) error { return p.signal(rest) },
		"left": func(ctx context.Context, p *play, rest string) error {
			if p.rig.Former() == nil {
				return errors.New("there is no sidecar but this one")
			}
			return p.rig.Former().Wait(15 * time.Second)
		},

		"write": func(ctx context.Context, p *play, rest string) error {
			name, text, _ := strings.Cut(rest, " ")
			return p.rig.Write(map[string]string{name: text + "\n"})
		},
		"edit":   func(ctx context.Context, p *play, rest string) error { return p.edit(rest) },
		"remove": func(ctx context.Context, p *play, rest string) error { return os.Remove(p.file(rest)) },
		"chmod": func(ctx context.Context, p *play, rest string) error {
			name, text, _ := strings.Cut(rest, " ")
			mode, err := strconv.ParseUint(text, 8, 32)
			if err != nil {
				return err
			}
			return os.Chmod(p.file(name), os.FileMode(mode))
		},
		"mkdir": func(ctx context.Context, p *play, rest string) error { return os.Mkdir(rest, 0o777) },
		"spoil": func(ctx context.Context, p *play, rest string) error { return spoil(p.file(rest)) },
		"stale-socket": func(ctx context.Context, p *play, rest string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.rig.Socket(), Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		},
		"log": func(ctx context.Context, p *play, rest string) error {
			switch rest {
			case "stalls":
				p.rig.Sidecar.Log().Stall()
			case "resumes":
				p.rig.Sidecar.Log().Resume()
			default:
				return errors.New("want stalls or resumes")
			}
			return nil
		},

		"watch":  func(ctx context.Context, p *play, rest string) error { p.watch(ctx, rest); return nil },
		"mark":   func(ctx context.Context, p *play, rest string) error { return p.takeMark(ctx) },
		"expect": func(ctx context.Context, p *play, rest string) error { return p.expect(ctx, rest) },
		"say":    func(ctx context.Context, p *play, rest string) error { return p.say(ctx, rest) },
		"test":   func(ctx context.Context, p *play, rest string) error { return p.test(ctx, rest) },
	}
}

func nameAndNumber(text string) (string, int, error) {
	name, number, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 {
		return "", 0, fmt.Errorf("want NAME NUMBER, have %q", text)
	}
	return name, n, nil
}

func (p *play) proxy(text string) error {
	which, what, _ := strings.Cut(text, " ")
	proxy := p.rig.API
	if which == "keys" {
		proxy = p.rig.Keys
	}
	if proxy == nil || which != "api" && which != "keys" {
		return errors.New(`want api or keys, and a line "proxies" before start`)
	}
	word, rest, _ := strings.Cut(what, " ")
	switch {
	case what == "down":
		proxy.Down()
		return nil
	case what == "up":
		return proxy.Up()
	case what == "mend":
		proxy.Mend()
		return nil
	case word == "toxic":
		return proxy.Toxic(rest)
	case what == "to impostor" && p.impostor != nil:
		return proxy.Instead(p.impostor)
	}
	return fmt.Errorf("%q is not understood", what)
}

func (p *play) impostorDo(what string) (err error) {
	if p.impostor == nil {
		if p.impostor, err = p.rig.Impostor(); err != nil {
			return err
		}
	}
	return p.impostor.Do(what)
}

// ask sends one request.
func (p *play) ask(ctx context.Context, text string) error {
	a, err := readAsk(text)
	if err != nil {
		return err
	}
	p.last = p.send(ctx, a, 0)
	return p.judgeOne(ctx, a)
}

func (p *play) judgeOne(ctx context.Context, a ask) error {
	if p.last.spoken {
		p.explain(ctx, &p.last, 5*time.Second)
	}
	if !a.meets(p.last, p.linesLost(ctx)) {
		return fmt.Errorf("it was %v after %v", p.last, p.last.took.Round(time.Millisecond))
	}
	return nil
}

// awaited is for how long something may be awaited unless the script says otherwise: much more than it takes on a busy machine.
const awaited = 15 * time.Second

// await sends one request after the other until one is answered as wanted.
func (p *play) await(ctx context.Context, text string) error {
	a, err := readAsk(text)
	if err != nil {
		return err
	}
	limit := awaited
	if a.within > 0 {
		limit, a.within = a.within, 0
	}
	for deadline := time.Now().Add(limit); ; {
		p.last = p.send(ctx, a, 0)
		if err := p.judgeOne(ctx, a); err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// leave sends a request whose client goes away after a time: "TIME METHOD PATH …".
func (p *play) leave(ctx context.Context, text string) error {
	after, request, _ := strings.Cut(text, " ")
	d, err := time.ParseDuration(after)
	if err != nil {
		return err
	}
	a, err := readAsk(request + " -> 0 -")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if got := p.send(ctx, a, 0); got.err == nil {
		return fmt.Errorf("it was answered: %v", got)
	}
	return nil
}

var everySecond = regexp.MustCompile(`^([1-9][0-9]*)/s (.*)$`)

// load begins "NAME N/s REQUEST". "NAME stops" begins no more of them, "NAME ends" waits for the answers, too, and judges them.
func (p *play) load(ctx context.Context, text string) error {
	name, rest, _ := strings.Cut(text, " ")
	if l := p.loads[name]; l != nil {
		switch rest {
		case "stops":
			l.stop()
			return nil
		case "ends":
			l.end()
			return p.judge(ctx, l)
		}
	}
	words := everySecond.FindStringSubmatch(rest)
	if words == nil || p.loads[name] != nil {
		return errors.New("want NAME N/s REQUEST with a new name, or NAME ends")
	}
	a, err := readAsk(words[2])
	if err != nil {
		return err
	}
	perSecond, _ := strconv.Atoi(words[1])
	p.loads[name] = p.beginLoad(ctx, a, perSecond)
	return nil
}

var soMany = regexp.MustCompile(`^([a-z-]+) ([1-9][0-9]*) by ([1-9][0-9]*) (.*)$`)

// burstOf sends "NAME N by M REQUEST": N of it, M at a time.
func (p *play) burstOf(ctx context.Context, text string) error {
	words := soMany.FindStringSubmatch(text)
	if words == nil || p.loads[words[1]] != nil {
		return errors.New("want NAME N by M REQUEST with a new name")
	}
	a, err := readAsk(words[4])
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(words[2])
	atOnce, _ := strconv.Atoi(words[3])
	p.loads[words[1]] = p.burst(ctx, a, n, atOnce)
	return p.judge(ctx, p.loads[words[1]])
}

var signals = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

func (p *play) signal(name string) error {
	sig, ok := signals[name]
	if !ok {
		return fmt.Errorf("%q is none of HUP, TERM, STOP and CONT", name)
	}
	return p.rig.Sidecar.Signal(sig)
}

// file is a path; "socket" is the sidecar's, and what is not absolute lies beside the configuration.
func (p *play) file(name string) string {
	switch {
	case name == "socket":
		return p.rig.Socket()
	case filepath.IsAbs(name):
		return name
	}
	return filepath.Join(filepath.Dir(p.rig.ConfigFile), name)
}

// edit replaces text of the configuration: "OLD => NEW", with \n for a new line. OLD must be there once.
func (p *play) edit(text string) error {
	before, after, ok := strings.Cut(strings.ReplaceAll(text, `\n`, "\n"), " => ")
	config, err := os.ReadFile(p.rig.ConfigFile)
	if err != nil {
		return err
	}
	if !ok || strings.Count(string(config), before) != 1 {
		return fmt.Errorf("want OLD => NEW with OLD once in the configuration:\n%s", config)
	}
	return p.rig.Write(map[string]string{"config.yaml": strings.Replace(string(config), before, after, 1)})
}

// spoil changes one bit in the middle of a file.
func spoil(path string) error {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return fmt.Errorf("nothing to spoil in %s: %w", path, err)
	}
	text[len(text)/2] ^= 1
	return os.WriteFile(path, text, 0o600)
}
