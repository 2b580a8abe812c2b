package hostfiles

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// identity is a user and group that writes on the remote host; -1: as logged in.
type identity struct{ uid, gid int }

var asIs = identity{-1, -1}

// batch is what one identity writes.
type batch struct {
	files []change
	dirs  []dirChange
}

// send writes files on another host, all of them under temporary names first, and then renames
// them. The number of calls does not depend on the number of files.
func (f *Restore) send(ctx context.Context, s *backup.Stored, c *comparison, todo []change) error {
	batches, err := f.batches(ctx, c, todo)
	if err != nil {
		return err
	}
	who := slices.SortedFunc(maps.Keys(batches), func(a, b identity) int { return a.uid - b.uid })
	for _, id := range who {
		if err := f.sendBatch(ctx, s, id, batches[id]); err != nil {
			return err
		}
	}
	return nil
}

// batches groups changes by the user who writes them. Below a directory that another user controls,
// root acts as that user, who then owns the written files.
func (f *Restore) batches(ctx context.Context, c *comparison,
	todo []change) (map[identity]*batch, error) {
	out := map[identity]*batch{}
	get := func(id identity) *batch {
		if out[id] == nil {
			out[id] = &batch{}
		}
		return out[id]
	}
	root, err := f.isRoot(ctx)
	if err != nil {
		return nil, err
	}
	who := func(name string, uid, gid int) (identity, error) {
		dir := c.unsafe("/" + name)
		if dir == "" || !root {
			return asIs, nil
		}
		owner := c.above[dir].meta.UID
		if owner != uid || (owner == 0 && c.above[dir].meta.Mode.Perm()&0o022 != 0) {
			return asIs, &backup.Error{Op: "restore", Object: "/" + name, Kind: backup.ErrUnsafe,
				Err: fmt.Errorf("other users can change the directory %s, and the file belongs to user %d",
					dir, uid),
				Next: "restore on the host itself, or make root the owner of that directory"}
		}
		return identity{uid, gid}, nil
	}
	for _, x := range todo {
		id, err := who(x.Path, x.UID, x.GID)
		if err != nil {
			return nil, err
		}
		get(id).files = append(get(id).files, x)
	}
	needed := map[string]bool{}
	for _, x := range todo {
		for p := path.Dir(x.Path); p != "."; p = path.Dir(p) {
			needed[p] = true
		}
	}
	for _, d := range c.dirs {
		if d.action != backup.ActionReplace && (d.action != backup.ActionCreate || !(d.Listed ||
			needed[d.Path])) {
			continue
		}
		id, err := who(d.Path, d.UID, d.GID)
		if err != nil {
			return nil, err
		}
		get(id).dirs = append(get(id).dirs, d)
	}
	return out, nil
}

func (f *Restore) isRoot(ctx context.Context) (bool, error) {
	var out bytes.Buffer
	if err := f.Runner(ctx, []string{"id", "-u"}, nil, &out, nil); err != nil {
		return false, step.Fail("restore", "files of the remote host", err)
	}
	return strings.TrimSpace(out.String()) == "0", nil
}

// Scripts for perl, which is essential on Debian. Each reads records that end with a zero byte and
// stops at the first that fails. A record without its end was cut off with the connection and would
// name another file.
const (
	// Directories: mode, uid, gid and path.
	perlDirs = `$/="\0"; while(defined($m=<STDIN>)){($u,$g,$p)=map{scalar <STDIN>}1..3;chomp($m,$u,$g,$p)==4 or die "cut off\n";` +
		`-d $p && !-l $p or mkdir($p,0700) or die "$p: $!\n"; chown($u,$g,$p) or die "$p: $!\n"; chmod(oct($m),$p) or die "$p: $!\n"}`
	// Renames: old and new path. The files are on the disk before the first rename, and the
	// renames at the end. It flushes these files, not the whole host as sync does.
	perlRename = `use Fcntl; use IO::Handle; $/="\0"; while(defined($a=<STDIN>)){$b=<STDIN>;chomp($a,$b)==2 or die "cut off\n";push @p,[$a,$b]} ` +
		`sub flush{sysopen(F,$_[0],O_RDONLY|O_NOFOLLOW|O_NONBLOCK) or $!{ELOOP}||$!{EACCES} and return or die "$_[0]: $!\n"; F->sync or die "$_[0]: $!\n"; close F} ` +
		`flush($_->[0]) for @p; for(@p){rename($_->[0],$_->[1]) or die "$_->[1]: $!\n"; $_->[1]=~m{^(.*/)} and $d{$1}=1} flush($_) for keys %d`
	// Removals: files, and empty directories, whose names end with a slash. It prints a character
	// for each.
	perlRemove = `$/="\0"; while(defined($p=<STDIN>)){chomp($p) or die "cut off\n"; if($p=~s{/$}{}){rmdir($p) and print "-";next} ` +
		`if(unlink($p)){print "-"}else{$!{ENOENT} or die "$p: $!\n"}}`
)

func (f *Restore) sendBatch(ctx context.Context, s *backup.Stored, id identity,
	b *batch) (err error) {
	if len(b.dirs) > 0 {
		var in []string
		for _, d := range b.dirs {
			in = append(in, d.Mode, strconv.Itoa(d.UID), strconv.Itoa(d.GID), "/"+d.Path)
		}
		if err := f.command(ctx, id, records(in), nil, "perl", "-e", perlDirs); err != nil {
			return err
		}
	}
	if len(b.files) == 0 {
		return nil
	}
	temps := map[string]string{}
	var all, pairs []string
	for _, c := range b.files {
		temps[c.Path] = path.Join(path.Dir(c.Path), tempName(path.Base(c.Path)))
		all = append(all, "/"+temps[c.Path])
		pairs = append(pairs, "/"+temps[c.Path], "/"+c.Path)
	}
	defer func() {
		if err != nil {
			cleanup, cancel := step.Undoing(ctx)
			defer cancel()
			err = errors.Join(err, f.command(cleanup, id, records(all), nil, "perl", "-MErrno", "-e",
				perlRemove))
		}
	}()
	if err := f.unpack(ctx, s, id, b.files, temps); err != nil {
		return err
	}
	return f.command(ctx, id, records(pairs), nil, "perl", "-MErrno", "-e", perlRename)
}

func (f *Restore) unpack(ctx context.Context, s *backup.Stored, id identity, files []change,
	temps map[string]string) error {
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := packTemp(pw, s, files, temps)
		_ = pw.CloseWithError(err)
		packed <- err
	}()
	owner := "--same-owner"
	if id != asIs {
		owner = "--no-same-owner"
	}
	err := f.command(ctx, id, pr, nil, "tar", "--extract", "--file=-", "--directory=/",
		"--preserve-permissions", owner, "--numeric-owner", "--keep-old-files")
	_ = pr.Close()
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return packErr
	}
	return err
}

func (f *Restore) command(ctx context.Context, id identity, stdin io.Reader, stdout io.Writer,
	argv ...string) error {
	argv = append([]string{"env", "LC_ALL=C"}, argv...)
	if id != asIs {
		argv = append([]string{"setpriv", "--reuid", strconv.Itoa(id.uid), "--regid",
			strconv.Itoa(id.gid), "--clear-groups"}, argv...)
	}
	if err := f.Runner(ctx, argv, stdin, stdout, nil); err != nil {
		return step.Fail("restore", "files of the remote host", err)
	}
	return nil
}

func packTemp(w io.Writer, s *backup.Stored, todo []change, temps map[string]string) error {
	tw := tar.NewWriter(w)
	for _, c := range todo {
		mode, err := c.Perm()
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: temps[c.Path], Size: c.Size,
			Mode: int64(step.UnixMode(mode)), Uid: c.UID, Gid: c.GID, ModTime: c.MTime,
			Format: tar.FormatPAX}
		if c.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, c.Link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if c.Link != "" {
			continue
		}
		src, err := s.Open(c.File.Path)
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, src)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
	}
	return tw.Close()
}

// removeRemote removes created files, and created directories that are empty.
func (f *Restore) removeRemote(ctx context.Context, d RescueDetails) (removed bool, err error) {
	if err := f.sweepRemote(ctx, dirsOfNames(d.Created)); err != nil {
		return false, err
	}
	names := slices.Clone(d.Created)
	for _, name := range d.CreatedDirs {
		names = append(names, name+"/")
	}
	return f.removeNames(ctx, names)
}

// removeNames removes files, and empty directories whose names end with a slash. Below a
// directory that another user controls root acts as that user. It reports whether it
// removed any.
func (f *Restore) removeNames(ctx context.Context, names []string) (removed bool, err error) {
	if len(names) == 0 {
		return false, nil
	}
	ask := map[string]bool{}
	for _, name := range names {
		for p := path.Dir(strings.TrimSuffix("/"+name, "/")); p != "/"; p = path.Dir(p) {
			ask[p] = true
		}
	}
	listed, err := remoteHost{f.Runner}.lstat(ctx, slices.Sorted(maps.Keys(ask)))
	if err != nil {
		return false, err
	}
	c := &comparison{above: map[string]entry{}}
	for _, e := range listed {
		c.above[e.path] = e
	}
	if err := c.checkAbove(); err != nil {
		return false, err
	}
	root, err := f.isRoot(ctx)
	if err != nil {
		return false, err
	}
	in := map[identity][]string{}
	for _, name := range names {
		id := asIs
		if dir := c.unsafe(strings.TrimSuffix("/"+name, "/")); dir != "" && root {
			id = identity{c.above[dir].meta.UID, c.above[dir].meta.GID}
		}
		in[id] = append(in[id], "/"+name)
	}
	var errs []error
	var out bytes.Buffer
	for id, names := range in {
		errs = append(errs, f.command(ctx, id, records(names), &out, "perl", "-MErrno", "-e", perlRemove))
	}
	return out.Len() > 0, errors.Join(errs...)
}
