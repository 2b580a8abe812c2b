package redisdb

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// dataDir is a server's data directory. All work in it uses the owner's permissions and one
// descriptor, so that the owner cannot lead root elsewhere by links or exchanged directories.
type dataDir struct {
	path     string
	uid, gid int
}

// openData returns a data directory with its owner.
func openData(path string) (dataDir, error) {
	d := dataDir{path: path}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return d, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return d, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return d, errors.New("its owner is unknown")
	}
	d.uid, d.gid = int(st.Uid), int(st.Gid)
	if euid := os.Geteuid(); euid != 0 && euid != d.uid {
		return d, fmt.Errorf("it belongs to user %d; run as root or as that user", d.uid)
	}
	return d, nil
}

// act runs f with the owner's permissions. It opens the directory as root, because the owner may
// have no access to the directories above, and checks the owner of the descriptor. f must not start
// goroutines that use files.
func (d dataDir) act(f func(root *os.Root) error) (err error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != d.uid {
		return fmt.Errorf("%s was replaced: it now belongs to another user", d.path)
	}
	return asUser(d.uid, d.gid, func() error { return f(root) })
}

// asUser runs f with the file access of another user and group, if this process is root.
func asUser(uid, gid int, f func() error) error {
	if os.Geteuid() != 0 || uid == 0 {
		return f()
	}
	runtime.LockOSThread()
	egid := os.Getegid()
	err := setFS(uid, gid)
	if err == nil {
		err = f()
	}
	if e := setFS(0, egid); e != nil {
		// The goroutine keeps the thread, so that no other goroutine gets it.
		return errors.Join(err, e)
	}
	runtime.UnlockOSThread()
	return err
}

// setFS sets the user and group for this thread's file access. The kernel returns the value before
// and never an error, so setFS asks again.
func setFS(uid, gid int) error {
	const ask = ^uintptr(0)
	for _, id := range []struct {
		call uintptr
		want int
	}{{syscall.SYS_SETFSGID, gid}, {syscall.SYS_SETFSUID, uid}} {
		_, _, _ = syscall.RawSyscall(id.call, uintptr(id.want), 0, 0)
		if now, _, _ := syscall.RawSyscall(id.call, ask, 0, 0); int(now) != id.want {
			return fmt.Errorf("this thread's access to files is that of %d instead of %d", now, id.want)
		}
	}
	return nil
}

// syncRoot makes renames in the directory durable.
func syncRoot(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// serverUID asks the kernel for the user of the server's process.
func (n *node) serverUID(ctx context.Context) (int, error) {
	c, err := n.open(ctx, 0)
	if err != nil {
		return 0, err
	}
	defer c.close()
	if _, err := c.command("PING"); err != nil && !isReply(err) {
		return 0, serverError("connect to", n.object(), ctxFirst(ctx, err))
	}
	type hasConn interface{ NetConn() net.Conn }
	raw := c.Conn
	for {
		inner, ok := raw.(hasConn)
		if !ok {
			break
		}
		raw = inner.NetConn()
	}
	switch raw := raw.(type) {
	case *net.UnixConn:
		return peerCredentials(raw)
	case *net.TCPConn:
		return socketOwner(raw.RemoteAddr(), raw.LocalAddr())
	}
	return 0, fmt.Errorf("the user of a %T connection is unknown", raw)
}

func peerCredentials(c *net.UnixConn) (uid int, err error) {
	sc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var inner error
	err = sc.Control(func(fd uintptr) {
		cred, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// socketOwner returns the owner of the other end of a connection on this machine.
func socketOwner(local, remote net.Addr) (int, error) {
	l, err1 := netip.ParseAddrPort(local.String())
	r, err2 := netip.ParseAddrPort(remote.String())
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		uid, found := findSocket(f, l, r)
		_ = f.Close()
		if found {
			return uid, nil
		}
	}
	return 0, errors.New("the server is not a process of this machine, or of another " +
		"network namespace")
}

func findSocket(r io.Reader, local, remote netip.AddrPort) (uid int, found bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || kernelAddr(f[1]) != plainAddr(local) || kernelAddr(f[2]) != plainAddr(remote) {
			continue
		}
		if uid, err := strconv.Atoi(f[7]); err == nil {
			return uid, true
		}
	}
	return 0, false
}

func plainAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// kernelAddr reads "0100007F:1F90": words of 32 bits in the machine's order.
func kernelAddr(s string) netip.AddrPort {
	host, port, ok := strings.Cut(s, ":")
	p, err1 := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(host)
	if !ok || err1 != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		if littleEndianMachine {
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}
