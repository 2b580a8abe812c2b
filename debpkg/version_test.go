package debpkg

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

func mustVersion(t testing.TB, s string) Version {
	t.Helper()
	v, err := ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVersionOrder(t *testing.T) {
	t.Parallel()
	rising := []string{"0~~", "0~", "0", "1.0~rc1", "1.0", "1.0-0.1", "1.0-1", "1.0a", "1.0+b1",
		"4.0.8", "4.0.16", "5.2.5", "5.3.0~rc1", "5.3.0", "5.14.0",
		"9999999999999999998", "9999999999999999999999999999999999999999", "1:0.1", "2147483647:0"}
	for i, a := range rising {
		for j, b := range rising {
			want := sign(i - j)
			if got := mustVersion(t, a).Compare(mustVersion(t, b)); got != want {
				t.Errorf("%s <=> %s = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "0:1.0"}, {"1.0", "1.0-0"}, {"1.01", "1.1"},
		{"1.0", "1.0-"[:3]}} {
		if c := mustVersion(t, same[0]).Compare(mustVersion(t, same[1])); c != 0 {
			t.Errorf("%v: %d", same, c)
		}
	}
	if (Version{}).Compare(mustVersion(t, "0.1")) != -1 || !(Version{}).IsZero() {
		t.Error("no version does not sort before 0.1")
	}
}

// TestVersionAgainstDpkg compares 12,500 pairs with dpkg itself, in one process:
// package qN is installed as far as unpacked and depends on what our answer
// says of pN, so that dpkg would configure it only if it agrees.
func TestVersionAgainstDpkg(t *testing.T) {
	t.Parallel()
	lab.Program(t, "dpkg", "dpkg")
	const pairs = 12500
	r := rand.New(rand.NewPCG(6, 2026))
	var versions []string
	for len(versions) < 2*pairs {
		v := randomVersion(r)
		if _, err := ParseVersion(v); err == nil {
			versions = append(versions, v)
			if r.IntN(2) == 0 { // a near neighbour
				if w := mutate(r, v); validate(w) == nil {
					versions = append(versions, w)
				}
			}
		}
	}
	var status strings.Builder
	for i := range pairs {
		a, b := versions[2*i], versions[2*i+1]
		got, back := mustVersion(t, a).Compare(mustVersion(t, b)), mustVersion(t,
			b).Compare(mustVersion(t, a))
		if got != -back {
			t.Errorf("%q <=> %q = %d, the other way round %d", a, b, got, back)
		}
		const rest = "Architecture: all\nMaintainer: x\nDescription: x\n"
		fmt.Fprintf(&status, "Package: p%d\nStatus: install ok installed\nVersion: %s\n%s\n", i, a, rest)
		fmt.Fprintf(&status, "Package: q%d\nStatus: install ok unpacked\nVersion: 1\nDepends: p%d "+
			"(%s %s)\n%s\n", i, i, []string{"<<", "=", ">>"}[got+1], b, rest)
	}
	dir := t.TempDir()
	for _, d := range []string{"info", "updates", "triggers"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dpkg", "--admindir="+dir, "--log=/dev/null", "--abort-after=100000",
		"--no-act", "--configure", "-a")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	agreed := 0
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "Setting up q"):
			agreed++
		case strings.Contains(line, "depends on"), strings.Contains(line, "on system is"):
			t.Errorf("dpkg disagrees: %s", line)
		}
	}
	if err != nil || agreed != pairs {
		t.Errorf("dpkg agrees on %d of %d pairs: %v\n%s", agreed, pairs, err, out[:min(len(out), 2000)])
	}
}

func TestParseVersionLikeDpkg(t *testing.T) {
	t.Parallel()
	lab.Program(t, "dpkg", "dpkg")
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "abc", "v5.2.5", "1:2-", "1.0:2", "0:1.0:2", "1_0", "-1", "1-", ":1", "1:",
		"2147483648:1", "2147483647:1", "-1:1", "1.0~rc1", "1 0", "1é", "1-1_", "00:1"}
	for range 80 {
		texts = append(texts, randomVersion(r))
	}
	out, err := exec.Command("sh", append([]string{"-c",
		`for v; do dpkg --validate-version "$v" 2>/dev/null; echo $?; done`, "dpkg"}, texts...)...).Output()
	says := strings.Fields(string(out))
	if err != nil || len(says) != len(texts) {
		t.Fatalf("%d answers, %v", len(says), err)
	}
	for i, s := range texts {
		if _, ours := ParseVersion(s); (ours == nil) != (says[i] == "0") {
			t.Errorf("%q: ours %v, dpkg %s", s, ours, says[i])
		}
	}
}

func randomVersion(r *rand.Rand) string {
	const chars = "0123456789.~+-abzAZ:"
	var b strings.Builder
	for range 1 + r.IntN(8) {
		switch r.IntN(12) {
		case 0:
			b.WriteString(strings.Repeat(string(chars[r.IntN(10)]), 1+r.IntN(30)))
		case 1, 2, 3:
			b.WriteByte(chars[r.IntN(len(chars))])
		default:
			b.WriteByte(chars[r.IntN(11)])
		}
	}
	return b.String()
}

func mutate(r *rand.Rand, v string) string {
	const chars = "019.~+-aZ"
	i := r.IntN(len(v) + 1)
	switch r.IntN(3) {
	case 0:
		return v[:i] + string(chars[r.IntN(len(chars))]) + v[i:]
	case 1:
		return v[:i] + "0" + v[i:]
	default:
		return v[:i] + v[min(i+1, len(v)):]
	}
}

func TestVersionMarshals(t *testing.T) {
	t.Parallel()
	type pair struct {
		A Version
		B Version `json:",omitzero"`
	}
	in := pair{A: mustVersion(t, "1:5.3.0~rc1-2")}
	data, err := json.Marshal(in)
	if err != nil || string(data) != `{"A":"1:5.3.0~rc1-2"}` {
		t.Fatalf("%s, %v", data, err)
	}
	var out pair
	if err := json.Unmarshal(data, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"A":"v5"}`), &out); err == nil {
		t.Error("v5 was read")
	}
	if err := json.Unmarshal([]byte(`{"A":""}`), &out); err != nil || !out.A.IsZero() {
		t.Errorf("%+v, %v", out, err)
	}
}

func FuzzVersion(f *testing.F) {
	f.Add("1:5.3.0~rc1-2", "5.3.0")
	f.Add("1", "1-")
	f.Add("9223372036854775808", "9223372036854775807")
	f.Fuzz(func(t *testing.T, a, b string) {
		va, erra := ParseVersion(a)
		vb, errb := ParseVersion(b)
		if errors.Join(erra, errb) != nil {
			return
		}
		if va.Compare(va) != 0 || va.Compare(vb) != -vb.Compare(va) {
			t.Errorf("%q <=> %q: %d and %d", a, b, va.Compare(vb), vb.Compare(va))
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	v, w := mustVersion(b, "1:5.3.0~rc1-2"), mustVersion(b, "1:5.3.0~rc2-1")
	for b.Loop() {
		v.Compare(w)
	}
}
