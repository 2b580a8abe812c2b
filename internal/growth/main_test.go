package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	t.Parallel()
	const in = `goos: linux
pkg: example.com/tykupgrade/backup/hostfiles
BenchmarkRestore/n=100-2         	      10	   1000 ns/op	      5.000 cpu-ms/op	     64 B/op	       1 allocs/op
BenchmarkRestore/n=1000-2        	      10	  10000 ns/op	     50.00 cpu-ms/op	     64 B/op	       1 allocs/op
BenchmarkRestore/n=10000-2       	      10	 100000 ns/op	    500.0 cpu-ms/op	     64 B/op	       1 allocs/op
BenchmarkMatch/n=10/peer-2       	      10	    100 ns/op
BenchmarkMatch/n=100/peer-2      	      10	  10000 ns/op
BenchmarkParse-2                 	      10	    100 ns/op
BenchmarkOnce/n=10-2             	      10	    100 ns/op
PASS
`
	var out strings.Builder
	if err := report(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	got, ok := strings.CutPrefix(out.String(), in)
	if !ok {
		t.Fatalf("the input is not repeated:\n%s", out.String())
	}
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"growth hostfiles BenchmarkMatch/peer ns/op n^2.00 (2 sizes)",
		"growth hostfiles BenchmarkRestore ns/op n^1.00 (3 sizes)",
		"growth hostfiles BenchmarkRestore cpu-ms/op n^1.00 (3 sizes)",
		"growth hostfiles BenchmarkRestore B/op n^0.00 (3 sizes)",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}
