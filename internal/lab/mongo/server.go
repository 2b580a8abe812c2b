// Package mongo is an in-process MongoDB stub that speaks the wire protocol
// through the driver's own packages: what a dump and a restore ask of a server,
// byte-faithful in the documents it holds, with snapshot reads, SCRAM-SHA-256
// and faults on demand. A MongoDB server itself is in no package registry.
//
// It does not evaluate queries beyond equality, builds no real indexes, has no
// transactions, no sharding and no replication: behaviour that rests on those
// has to be tried against a real replica set.
//
// wiremessage and bsoncore make no promise of compatibility: a new driver
// version may need changes here.
package mongo

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/xdg-go/scram"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/x/mongo/driver/wiremessage"

	"example.com/tykupgrade/internal/lab/port"
)

// Options says which server to play. The zero value is the primary of a
// one-member replica set that honours snapshot reads and asks for no password.
type Options struct {
	Version        string      // what buildInfo answers; empty: 7.0.14
	Standalone     bool        // no replica set name, no snapshot reads
	Mongos         bool        // a router of a sharded cluster
	IgnoreSnapshot bool        // answer snapshot reads without atClusterTime, as FerretDB 1.24 does
	AskValidators  bool        // ignore bypassDocumentValidation
	User, Password string      // when set, every command but the handshake needs SCRAM-SHA-256
	TLS            *tls.Config // nil: plain TCP
}

// Command is what a client asked.
type Command struct {
	Name   string   // "find", "insert" …, as the client wrote it
	DB     string   // its $db
	Target string   // the collection, where the command names one
	Body   bson.Raw // the whole command, without document sequences
}

// Fault is what the server does instead of, or before, answering. The zero
// value answers as usual.
type Fault struct {
	Wait <-chan struct{} // hold the answer until this is closed or the server stops
	Cut  bool            // close the connection instead of running the command
	Lose bool            // run the command, then close the connection without an answer
	Code int32           // answer with this error instead of running the command
	Name string          // codeName of that error
	Msg  string          // errmsg of that error
	Kill bool            // run the command, but drop every open cursor first
	Lie  bool            // answer ok without running the command
}

// Server is a running stub on a loopback port. Its methods may be called
// by several goroutines.
type Server struct {
	o  Options
	ln net.Listener
	wg sync.WaitGroup

	users *scram.Server

	mu    sync.RWMutex // guards all below
	dbs   map[string]map[string]*collection
	clock uint32 // logical time of the last write

	cmu     sync.Mutex // guards the next five; taken after mu where both are
	hook    func(Command) Fault
	cursors map[int64]*cursor
	nextID  int64
	conns   map[net.Conn]struct{}
	written map[string]written // by session

	closed chan struct{}
}

// Start runs a server until Close.
func Start(o Options) (*Server, error) {
	if o.Version == "" {
		o.Version = "7.0.14"
	}
	s := &Server{
		o: o, dbs: map[string]map[string]*collection{}, cursors: map[int64]*cursor{}, nextID: 1 << 40,
		conns: map[net.Conn]struct{}{}, written: map[string]written{}, closed: make(chan struct{}),
	}
	if o.User != "" {
		if err := s.enrol(); err != nil {
			return nil, err
		}
	}
	ln, err := port.Listen()
	if err != nil {
		return nil, err
	}
	s.ln = ln
	if o.TLS != nil {
		s.ln = tls.NewListener(ln, o.TLS)
	}
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is the host and port that the server listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// URI connects to the server without credentials, and without topology
// discovery, so that a member name is never looked up.
func (s *Server) URI() string { return "mongodb://" + s.Addr() + "/?directConnection=true" }

// Close stops the server and drops its connections.
func (s *Server) Close() {
	s.cmu.Lock()
	select {
	case <-s.closed:
		s.cmu.Unlock()
		return
	default:
	}
	close(s.closed)
	_ = s.ln.Close()
	for c := range s.conns {
		_ = c.Close()
	}
	s.cmu.Unlock()
	s.wg.Wait()
}

// Hook has f see every command before it runs, the handshake included, and
// decide about faults; nil removes it. f is called by several goroutines.
func (s *Server) Hook(f func(Command) Fault) {
	s.cmu.Lock()
	defer s.cmu.Unlock()
	s.hook = f
}

// Cursors is how many cursors are open.
func (s *Server) Cursors() int {
	s.cmu.Lock()
	defer s.cmu.Unlock()
	return len(s.cursors)
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.cmu.Lock()
		select {
		case <-s.closed:
			s.cmu.Unlock()
			_ = c.Close()
			return
		default:
		}
		s.conns[c] = struct{}{}
		s.wg.Go(func() {
			defer func() {
				_ = c.Close()
				s.cmu.Lock()
				delete(s.conns, c)
				s.cmu.Unlock()
			}()
			_ = (&conn{s: s, c: c}).serve()
		})
		s.cmu.Unlock()
	}
}

// maxMessage is what mongod 7.0 announces.
const maxMessage = 48_000_000

// conn is one client connection.
type conn struct {
	s     *Server
	c     net.Conn
	login *scram.ServerConversation
	user  string
	// Buffers that the next command uses again: of a message, an answer, a batch of a cursor.
	in, out, cursor []byte
}

var errCut = errors.New("connection cut on purpose")

func (c *conn) serve() error {
	var head [16]byte
	for {
		if _, err := io.ReadFull(c.c, head[:]); err != nil {
			return err
		}
		size, id, _, op, _, _ := wiremessage.ReadHeader(head[:])
		if size < 16 || size > maxMessage+16<<10 {
			return fmt.Errorf("message of %d bytes", size)
		}
		if cap(c.in) < int(size)-16 {
			c.in = make([]byte, size-16)
		}
		body := c.in[:size-16]
		if _, err := io.ReadFull(c.c, body); err != nil {
			return err
		}
		answer := c.legacy
		if op == wiremessage.OpMsg {
			answer = c.msg
		}
		if err := answer(id, body); err != nil {
			return err
		}
	}
}

func (c *conn) msg(id int32, body []byte) error {
	flags, rem, ok := wiremessage.ReadMsgFlags(body)
	if !ok {
		return errors.New("malformed OP_MSG")
	}
	if flags&wiremessage.ChecksumPresent != 0 {
		rem = rem[:len(rem)-4]
	}
	var q request
	for len(rem) > 0 {
		var kind wiremessage.SectionType
		if kind, rem, ok = wiremessage.ReadMsgSectionType(rem); !ok {
			return errors.New("malformed section")
		}
		switch kind {
		case wiremessage.SingleDocument:
			var doc bsoncore.Document
			if doc, rem, ok = wiremessage.ReadMsgSectionSingleDocument(rem); !ok {
				return errors.New("malformed body")
			}
			q.body = bson.Raw(doc)
		case wiremessage.DocumentSequence:
			var docs []bsoncore.Document
			if _, docs, rem, ok = wiremessage.ReadMsgSectionDocumentSequence(rem); !ok {
				return errors.New("malformed document sequence")
			}
			q.docs = append(q.docs, docs...)
		}
	}
	q.db, _ = q.body.Lookup("$db").StringValueOK()
	reply, err := c.run(q)
	if err != nil || flags&wiremessage.MoreToCome != 0 {
		return err
	}
	at, out := wiremessage.AppendHeaderStart(c.out[:0], wiremessage.NextRequestID(), id,
		wiremessage.OpMsg)
	out = wiremessage.AppendMsgFlags(out, 0)
	out = wiremessage.AppendMsgSectionType(out, wiremessage.SingleDocument)
	out = append(out, reply...)
	return c.send(bsoncore.UpdateLength(out, at, int32(len(out))))
}

func (c *conn) send(message []byte) error {
	c.out = message
	_, err := c.c.Write(message)
	return err
}

// run executes one command with its fault. An error ends the connection.
func (c *conn) run(q request) (bson.Raw, error) {
	first, err := q.body.IndexErr(0)
	if err != nil {
		return nil, err
	}
	q.name = first.Key()
	q.target, _ = first.Value().StringValueOK()
	if q.name == "getMore" {
		q.target, _ = q.body.Lookup("collection").StringValueOK()
	}
	c.s.cmu.Lock()
	hook := c.s.hook
	c.s.cmu.Unlock()
	var f Fault
	if hook != nil {
		f = hook(Command{Name: q.name, DB: q.db, Target: q.target, Body: q.body})
		if f.Wait != nil {
			select {
			case <-f.Wait:
			case <-c.s.closed:
			}
		}
		if f.Kill {
			c.s.cmu.Lock()
			clear(c.s.cursors)
			c.s.cmu.Unlock()
		}
		if f.Cut {
			return nil, errCut
		}
		if f.Lie {
			return ok(bson.E{Key: "n", Value: int32(len(q.docs))})
		}
		if f.Code != 0 {
			return marshal(refusal{f.Code, f.Name, f.Msg}.reply())
		}
	}
	if c.s.o.User != "" && c.user == "" && !beforeLogin[q.name] {
		return marshal(refusal{13, "Unauthorized", "command " + q.name +
			" requires authentication"}.reply())
	}
	do, ok := commands[q.name]
	if !ok {
		return marshal(refusal{59, "CommandNotFound", "no such command: '" + q.name + "'"}.reply())
	}
	reply, err := c.s.remembered(c, q, do)
	if f.Lose {
		return nil, errCut
	}
	var no refusal
	if errors.As(err, &no) {
		return marshal(no.reply())
	}
	return reply, err
}

// written is the last retryable write of a session: a driver that did not get
// the answer asks again and must not write twice.
type written struct {
	number int64
	reply  bson.Raw
}

func (s *Server) remembered(c *conn, q request, do func(*conn, request) (bson.Raw,
	error)) (bson.Raw, error) {
	number, err := q.body.LookupErr("txnNumber")
	session, _ := q.body.Lookup("lsid").DocumentOK()
	if err != nil || session == nil {
		return do(c, q)
	}
	s.cmu.Lock()
	last, again := s.written[string(session)]
	s.cmu.Unlock()
	if again && last.number == number.Int64() {
		return last.reply, nil
	}
	reply, err := do(c, q)
	if err == nil {
		s.cmu.Lock()
		s.written[string(session)] = written{number.Int64(), reply}
		s.cmu.Unlock()
	}
	return reply, err
}

// request is one parsed command with its document sequence.
type request struct {
	name, db, target string
	body             bson.Raw
	docs             []bsoncore.Document
}

// refusal is a command error.
type refusal struct {
	code      int32
	name, msg string
}

func (r refusal) Error() string { return r.msg }

func (r refusal) reply() bson.D {
	return bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: r.msg}, {Key: "code", Value: r.code},
		{Key: "codeName", Value: r.name}}
}

func marshal(d bson.D) (bson.Raw, error) { return bson.Marshal(d) }

func ok(fields ...bson.E) (bson.Raw, error) {
	return marshal(append(bson.D(fields), bson.E{Key: "ok", Value: 1.0}))
}

func integer(v bson.RawValue) int64 {
	if n, ok := v.AsInt64OK(); ok {
		return n
	}
	return 0
}

func timestamp(v bson.RawValue) (uint32, bool) {
	t, i, ok := v.TimestampOK()
	return i, ok && t == epoch
}

// epoch is the seconds part of every cluster time: the logical clock is the rest.
const epoch = uint32(1_700_000_000)

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func newUUID(n uint32) []byte {
	u := make([]byte, 16)
	binary.BigEndian.PutUint32(u[12:], n)
	u[0], u[6], u[8] = 0xab, 0x40, 0x80
	return u
}
