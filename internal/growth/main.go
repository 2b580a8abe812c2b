// Command growth reads the output of go test -bench, repeats it, and prints for
// each benchmark over sizes how its cost grows: the exponent k of cost = c·n^k.
// A benchmark over sizes names them: BenchmarkRestore/n=1000.
package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

func main() {
	if err := report(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

// A series holds a benchmark's costs by size.
type series struct {
	cost map[string][][2]float64 // by unit: n and cost
}

var sized = regexp.MustCompile(`^(Benchmark\S*?)/n=(\d+)(/\S*?)?(-\d+)?$`)

func report(in io.Reader, out io.Writer) error {
	all := map[string]*series{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	pkg := ""
	for lines.Scan() {
		fmt.Fprintln(out, lines.Text())
		if p, ok := strings.CutPrefix(lines.Text(), "pkg: "); ok {
			pkg = p[strings.LastIndex(p, "/")+1:]
		}
		if f := strings.Fields(lines.Text()); len(f) >= 4 {
			add(all, pkg, f)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, unit := range []string{"ns/op", "cpu-ms/op", "B/op"} {
			points := all[name].cost[unit]
			if k, ok := exponent(points); ok {
				fmt.Fprintf(out, "growth  %-60s %-9s n^%.2f  (%d sizes)\n", name, unit, k, len(points))
			}
		}
	}
	return nil
}

// add takes one line of a benchmark: name, runs, then pairs of value and unit.
func add(all map[string]*series, pkg string, f []string) {
	m := sized.FindStringSubmatch(f[0])
	if m == nil {
		return
	}
	n, err := strconv.ParseFloat(m[2], 64)
	if err != nil || n < 1 {
		return
	}
	name := pkg + " " + m[1] + m[3]
	s := all[name]
	if s == nil {
		s = &series{cost: map[string][][2]float64{}}
		all[name] = s
	}
	for i := 2; i+1 < len(f); i += 2 {
		if v, err := strconv.ParseFloat(f[i], 64); err == nil && v > 0 {
			s.cost[f[i+1]] = append(s.cost[f[i+1]], [2]float64{n, v})
		}
	}
}

// exponent is the slope of the line through the logarithms (least squares). It
// needs two different sizes.
func exponent(points [][2]float64) (float64, bool) {
	var x, y, xx, xy float64
	for _, p := range points {
		a, b := math.Log(p[0]), math.Log(p[1])
		x, y, xx, xy = x+a, y+b, xx+a*a, xy+a*b
	}
	n := float64(len(points))
	d := n*xx - x*x
	if len(points) < 2 || d < 1e-9 {
		return 0, false
	}
	return (n*xy - x*y) / d, true
}
