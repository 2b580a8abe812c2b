package installation

import (
	"context"
	"encoding/json"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

// Status is the present state of the run, the hosts, the bundles and the backup.
type Status struct {
	Run     *rollout.Report `json:"run,omitempty"` // none: no run was started
	Bundles []FileStatus    `json:"bundles,omitempty"`
	Set     *FileStatus     `json:"set,omitempty"`
	Hosts   []fleet.Status  `json:"hosts"`
}

// FileStatus is the present state of a bundle or of the run's set.
type FileStatus struct {
	Path  string `json:"path"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// OK reports whether the run is done and everything is in the state that the file describes.
func (s Status) OK() bool {
	ok := s.Run != nil && s.Run.Outcome == rollout.OutcomeDone && (s.Set == nil || s.Set.OK)
	for _, b := range s.Bundles {
		ok = ok && b.OK
	}
	for _, h := range s.Hosts {
		ok = ok && h.OK()
	}
	return ok
}

// Status reads the journal, the bundles and the set, and asks all hosts. It changes nothing and may
// be called during a run.
func (u *Upgrade) Status(ctx context.Context) (Status, error) {
	rep, err := u.History()
	if err != nil {
		return Status{}, err
	}
	waves, err := u.Waves()
	if err != nil {
		return Status{}, err
	}
	s := Status{Run: rep, Set: setStatus(ctx, rep), Hosts: u.Statuses(ctx,
		u.HostsOf(HostWaves(waves)))}
	for _, b := range u.bundles() {
		if one := bundleStatus(rep, u.part(TargetPlugin, b)); one != nil {
			s.Bundles = append(s.Bundles, *one)
		}
	}
	return s, nil
}

func bundleStatus(rep *rollout.Report, target string) *FileStatus {
	var note bundleNote
	data := rep.Saved(target, "bundle")
	if data == nil || json.Unmarshal(data, &note) != nil {
		return nil
	}
	s := &FileStatus{Path: note.File}
	sum, err := digest(note.File)
	if s.OK = err == nil && sum == note.SHA256; err != nil {
		s.Error = err.Error()
	} else if !s.OK {
		s.Error = "it has changed: SHA-256 " + sum + ", want " + note.SHA256
	}
	return s
}

func setStatus(ctx context.Context, rep *rollout.Report) *FileStatus {
	var note setNote
	data := rep.Saved(TargetBackup, "set")
	if data == nil || json.Unmarshal(data, &note) != nil || note.Dir == "" {
		return nil
	}
	s := &FileStatus{Path: note.Dir}
	set, err := backup.Open(note.Dir)
	if err == nil {
		err = set.Verify(ctx, backup.VerifyOptions{})
	}
	if s.OK = err == nil; !s.OK {
		s.Error = err.Error()
	}
	return s
}
