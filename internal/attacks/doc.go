// Package attacks is a test: every attack that the sidecar must withstand, through the door that Envoy uses.
//
// testdata/attacks.txt is the list, and its head says how to read it: no Go is needed for that, nor for adding a case. Each
// case is asked of real parts, the emulator of the session service behind them, in both ways in which Envoy sends headers. The
// number of an attack without a case that is denied, or without its nearest twin that passes, fails the test.
//
// With ATTACKS=print the test prints the list with what came of each.
package attacks
