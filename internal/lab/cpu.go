package lab

import (
	"syscall"
	"testing"
	"time"
)

// CPU returns the processor time of this process and of its children that have ended. On a
// shared machine a difference of two says more than the wall time between them.
func CPU(t testing.TB) (sum time.Duration) {
	t.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// ReportCPU reports d, the processor time of all iterations, as cpu-ms/op.
func ReportCPU(b *testing.B, d time.Duration) {
	b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), "cpu-ms/op")
}
