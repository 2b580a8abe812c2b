package mongodb_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/internal/lab"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// analytics fills a collection with documents like those of Tyk's pump, of
// about 280 bytes, a third of it random.
func analytics(t testing.TB, s *mongolab.Server, name string, n int) (size int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	s.Fill("tyk_analytics", name, n, func(i int) bson.Raw {
		noise := make([]byte, 48)
		for j := 0; j < len(noise); j += 8 {
			binary.LittleEndian.PutUint64(noise[j:], r.Uint64())
		}
		d := doc(t, bson.D{{Key: "_id", Value: i}, {Key: "method", Value: "GET"}, {Key: "path",
			Value: "/accounts/" + strconv.Itoa(i%977)},
			{Key: "responsecode", Value: 200}, {Key: "apikey", Value: fmt.Sprintf("%x", noise[:16])},
			{Key: "useragent", Value: "Mozilla/5.0 (X11; Linux x86_64)"},
			{Key: "requesttime", Value: int64(i % 100)}, {Key: "tags", Value: bson.A{"org-1", "key-" +
				strconv.Itoa(i%31)}}, {Key: "raw", Value: noise}})
		size += int64(len(d))
		return d
	})
	return size
}

// benchSizes are numbers of documents, in collections of a quarter each.
var benchSizes = []int{3_000, 30_000, 300_000}

// quarters fills four collections with n documents.
func quarters(b *testing.B, s *mongolab.Server, n int) (size int64) {
	b.Helper()
	for i := range 4 {
		size += analytics(b, s, fmt.Sprint("z_tyk_analyticz_", i), n/4)
	}
	return size
}

func BenchmarkDump(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) { benchDump(b, n) })
	}
}

func benchDump(b *testing.B, n int) {
	s := mongoServer(b, mongolab.Options{})
	size := quarters(b, s, n)
	ours := func(m *mongodb.Source) func(b *testing.B, dir string) {
		m.Server = uri(s)
		return func(b *testing.B, dir string) {
			if _, err := m.Backup(b.Context(), backup.NewWriter(dir, m.Name(), nil)); err != nil {
				b.Fatal(err)
			}
		}
	}
	theirs := func(flags ...string) func(b *testing.B, dir string) {
		return func(b *testing.B, dir string) {
			argv := []string{tool(b, "mongodump"), "--quiet", "--uri", s.URI(), "--db", "tyk_analytics"}
			for _, f := range flags {
				argv = append(argv, strings.ReplaceAll(f, "DIR", dir))
			}
			runTool(b, argv...)
		}
	}
	for _, c := range []struct {
		name string
		run  func(b *testing.B, dir string)
	}{
		{"ours/plain", ours(&mongodb.Source{Plain: true})}, {"mongodump/plain", theirs("--out=DIR")},
		{"ours/gzip", ours(&mongodb.Source{})}, {"mongodump/gzip", theirs("--gzip", "--out=DIR")},
		{"ours/set verified", func(b *testing.B, dir string) {
			if _, err := backup.Take(b.Context(), dir, backup.Options{},
				&mongodb.Source{Server: uri(s)}); err != nil {
				b.Fatal(err)
			}
		}},
		{"ours/set verified, then zstd", func(b *testing.B, dir string) {
			set, err := backup.Take(b.Context(), dir, backup.Options{}, &mongodb.Source{Server: uri(s),
				Plain: true})
			if err == nil {
				err = set.Export(b.Context(), filepath.Join(dir, "set.tar.zst"), backup.ExportOptions{})
			}
			if err != nil {
				b.Fatal(err)
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(size)
			defer cpu(b)()
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				b.StartTimer()
				c.run(b, dir)
				b.StopTimer()
				_ = os.RemoveAll(dir)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) { benchRestore(b, n) })
	}
}

// Both programs are processes of their own, so that client-ms is the client's CPU time
// alone. The server is in this process.
func benchRestore(b *testing.B, n int) {
	from := mongoServer(b, mongolab.Options{})
	size := quarters(b, from, n)
	set := takeMongo(b, &mongodb.Source{Server: uri(from)})
	from.Close()
	for _, c := range []struct {
		name string
		argv func(to *mongolab.Server) []string
	}{
		{"ours/verified and compared", func(*mongolab.Server) []string {
			return []string{os.Args[0], "-test.run=^TestRestoreHelper$", "-test.v"}
		}},
		{"mongorestore", func(to *mongolab.Server) []string {
			return []string{tool(b, "mongorestore"), "--quiet", "--gzip", "--uri", to.URI(),
				filepath.Join(set.Dir, "mongo")}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(size)
			defer cpu(b)()
			var client time.Duration
			for b.Loop() {
				b.StopTimer()
				to := mongoServer(b, mongolab.Options{})
				argv := c.argv(to)
				cmd := exec.CommandContext(b.Context(), argv[0], argv[1:]...)
				cmd.Env = append(os.Environ(), restoreEnv+"="+set.Dir+" "+to.URI())
				b.StartTimer()
				out, err := cmd.CombinedOutput()
				b.StopTimer()
				if err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				client += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				if _, peak, ok := strings.Cut(string(out), "PEAK "); ok {
					mib, _, _ := strings.Cut(peak, "\n")
					n, err := strconv.Atoi(mib)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(n), "peak-MiB")
				}
				to.Close()
				b.StartTimer()
			}
			b.ReportMetric(float64(client.Milliseconds())/float64(b.N), "client-ms/op")
		})
	}
}

const restoreEnv = "BACKUP_TEST_MONGODB_RESTORE"

// TestRestoreHelper is the process that BenchmarkRestore measures.
func TestRestoreHelper(t *testing.T) {
	dir, at, ok := strings.Cut(os.Getenv(restoreEnv), " ")
	if !ok {
		t.Skip("runs on behalf of BenchmarkRestore")
	}
	set, err := backup.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: mongodb.Server{URI: at}}); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("PEAK %d\n", peakMiB(t))
}

// peakMiB is the most memory that this process had.
func peakMiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// cpu reports the CPU time of an operation, the server's included.
func cpu(b *testing.B) (report func()) {
	before := lab.CPU(b)
	return func() { lab.ReportCPU(b, lab.CPU(b)-before) }
}

// Many small collections: what counts is commands and files, not documents.
func BenchmarkCollections(b *testing.B) {
	for _, n := range []int{20, 200, 2000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) { benchCollections(b, n) })
	}
}

func benchCollections(b *testing.B, n int) {
	s := mongoServer(b, mongolab.Options{})
	for i := range n {
		s.Insert("tyk_analytics", fmt.Sprint("c", i), doc(b, bson.D{{Key: "_id", Value: i}}))
	}
	b.Run("take", func(b *testing.B) {
		commands := countCommands(s)
		defer cpu(b)()
		for b.Loop() {
			takeMongo(b, &mongodb.Source{Server: uri(s)})
		}
		b.ReportMetric(float64(commands.Load())/float64(b.N), "commands/op")
	})
	b.Run("mongodump", func(b *testing.B) {
		dump := tool(b, "mongodump")
		commands := countCommands(s)
		defer cpu(b)()
		for b.Loop() {
			runTool(b, dump, "--quiet", "--gzip", "--uri", s.URI(), "--db", "tyk_analytics",
				"--out", b.TempDir())
		}
		b.ReportMetric(float64(commands.Load())/float64(b.N), "commands/op")
	})
	set := takeMongo(b, &mongodb.Source{Server: uri(s)})
	into := func(b *testing.B, restore func(to *mongolab.Server)) {
		var commands float64
		defer cpu(b)()
		for b.Loop() {
			b.StopTimer()
			to := mongoServer(b, mongolab.Options{})
			count := countCommands(to)
			b.StartTimer()
			restore(to)
			b.StopTimer()
			commands += float64(count.Load())
			to.Close()
			b.StartTimer()
		}
		b.ReportMetric(commands/float64(b.N), "commands/op")
	}
	b.Run("restore", func(b *testing.B) {
		into(b, func(to *mongolab.Server) {
			if _, err := set.Restore(b.Context(), backup.RestoreOptions{}, &mongodb.Restore{
				Server: uri(to)}); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("mongorestore", func(b *testing.B) {
		restore := tool(b, "mongorestore")
		into(b, func(to *mongolab.Server) {
			runTool(b, restore, "--quiet", "--gzip", "--uri", to.URI(), filepath.Join(set.Dir, "mongo"))
		})
	})
}

const memoryEnv = "BACKUP_TEST_MONGODB_MEMORY"

// TestMemoryHelper is the process whose memory TestConstantMemory
// measures: the server is in another one.
func TestMemoryHelper(t *testing.T) {
	at := os.Getenv(memoryEnv)
	if at == "" {
		t.Skip("runs on behalf of TestConstantMemory")
	}
	// What the garbage collector found to be in use, whatever its pace is.
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	done, stopped := make(chan struct{}), make(chan struct{})
	var peak uint64
	go func() {
		defer close(stopped)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				metrics.Read(sample)
				peak = max(peak, sample[0].Value.Uint64())
			}
		}
	}()
	server := mongodb.Server{URI: at}
	set := takeMongo(t, &mongodb.Source{Server: server, Plain: true})
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: server,
		Mode: mongodb.Replace}); err != nil {
		t.Fatal(err)
	}
	close(done)
	<-stopped
	fmt.Printf("PEAK %d\n", peak>>20)
}

// Seven times the documents take no more memory, backed up and restored.
func TestConstantMemory(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 8000)
	peak := func(docs int) int {
		s := mongoServer(t, mongolab.Options{})
		s.Fill("tyk_analytics", "large", docs, func(i int) bson.Raw {
			return doc(t, bson.D{{Key: "_id", Value: i}, {Key: "text", Value: text}})
		})
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemoryHelper$", "-test.v")
		cmd.Env = append(os.Environ(), memoryEnv+"="+s.URI(), "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, after, _ := strings.Cut(string(out), "PEAK ")
		line, _, _ := strings.Cut(after, "\n")
		mib, err := strconv.Atoi(line)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return mib
	}
	small, large := peak(200), peak(1400)
	t.Logf("at most %d MiB in use with 2 MB of documents, %d MiB with 11 MB", small, large)
	if large > small+7 { // holding the documents would be 9 more, once; a run measures 1 or 2
		t.Errorf("memory grew from %d MiB to %d MiB", small, large)
	}
	if large > 110 {
		t.Errorf("%d MiB in use", large)
	}
}
