package rollout

import (
	"context"
	"encoding/json"
	"slices"
)

// former is the administrative state of a server before a run touched it, as the step that
// drains the server saves it.
type former struct {
	Out  []string        `json:"out,omitempty"` // pools that had it out of service
	None bool            `json:"none"`          // no pool had it in service
	Kept json.RawMessage `json:"kept,omitempty"`
}

func keep(ctx context.Context, b Balancer, server string) (former, error) {
	p, err := pools(ctx, b, server)
	if err != nil {
		return former{}, err
	}
	f := former{None: len(p) > 0}
	for _, s := range p {
		if s.Drained {
			f.Out = append(f.Out, s.Pool)
		} else {
			f.None = false
		}
	}
	if k, ok := b.(Keeper); ok {
		f.Kept, err = k.Keep(ctx, server)
	}
	return f, err
}

// restore changes nothing that the balancer itself changed meanwhile, such as health.
func (f former) restore(ctx context.Context, b Balancer, server string) error {
	k, ok := b.(Keeper)
	switch {
	case ok && f.Kept != nil:
		return k.Restore(ctx, server, f.Kept)
	case f.None:
		return b.Drain(ctx, server)
	}
	return b.Ready(ctx, server)
}

// waitUp waits in the pools that had the server in service before.
func (f former) waitUp(ctx context.Context, b Balancer, server string, o UpOptions) error {
	if f.None {
		return nil
	}
	return waitUp(ctx, b, server, o, func(s State) bool { return slices.Contains(f.Out, s.Pool) })
}
