package debpkgtest_test

import (
	"errors"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
)

// Plans are carried out in their order until one fails. The record then holds what a revert needs.
func TestApplyAll(t *testing.T) {
	t.Parallel()
	fake, host := gateway(t)
	fake.Install(debpkgtest.Tyk("tyk-pump", "1.8.3"))
	fake.Offer(debpkgtest.Tyk("tyk-pump", "1.8.3"), debpkgtest.Tyk("tyk-pump", "1.9.0"))
	var plans []debpkg.Plan
	for _, r := range []debpkg.Request{request(t, "tyk-gateway", "5.2.5"), request(t, "tyk-pump", "1.9.0")} {
		p, err := host.Plan(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
	}
	file := filepath.Join(t.TempDir(), "change.json")
	record, err := debpkg.NewRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	fake.Install(debpkgtest.Tyk("tyk-pump", "1.9.0")) // somebody else was faster
	var told []string
	made, err := record.ApplyAll(t.Context(), host, plans, false, func(c debpkg.Change) {
		told = append(told, c.Plan.Actions[0].Package)
	})
	if !errors.Is(err, debpkg.ErrChanged) || len(made) != 1 || len(told) != 1 || told[0] != "tyk-gateway" ||
		fake.State("tyk-gateway") != "5.2.5 install installed" {
		t.Fatalf("%d changes, %q, %v", len(made), told, err)
	}
	again, err := debpkg.OpenRecord(file)
	if err != nil || len(again.Changes) != 1 || again.Changes[0].Dir != made[0].Dir {
		t.Errorf("the file has %+v, %v", again, err)
	}
}
