package rollout

import (
	"cmp"
	"html/template"
	"io"
	"slices"
	"sync"
	"time"
)

// maxRows is how many targets the page shows with a timeline, those that need attention first. A
// page of 100,000 timelines has 78 MB, which no browser opens.
const maxRows = 500

// WriteHTML writes the report as one page without scripts, for people who approve and review
// changes. The page has a summary and timelines of at most 500 targets, failed ones first. It lists
// the other targets by status.
func (r *Report) WriteHTML(w io.Writer) error {
	return page().Execute(w, r.view())
}

// view is the report laid out for the page.
type view struct {
	*Report
	Title  string
	Class  string // of the outcome
	Took   string
	Counts []count
	Ticks  []tick
	Rows   []row
	Rest   []rest // targets without a timeline
}

// rest is the targets of a status that have no row.
type rest struct {
	Status Status
	Names  []string
}

type count struct {
	Status Status
	N      int
}

type tick struct {
	Left  float64 // percent of the width
	Label string
}

type row struct {
	*TargetReport
	Took string
	Bars []bar
}

type bar struct {
	StepReport
	Left, Width float64 // percent
	Class, Tip  string
}

func (r *Report) view() view {
	v := view{Report: r, Title: r.Outcome.words(), Class: class(r.Outcome), Took: r.took().String()}
	for _, s := range []Status{StatusDone, StatusUndone, StatusNotRestored, StatusRunning,
		StatusPending} {
		v.Counts = append(v.Counts, count{s, r.Count(s)})
	}
	whole := max(r.Ended.Sub(r.Started), time.Millisecond)
	percent := func(d time.Duration) float64 { return min(100, max(0, float64(d)/float64(whole)*100)) }
	for i := range 5 {
		at := whole * time.Duration(i) / 4
		v.Ticks = append(v.Ticks, tick{percent(at), r.Started.Add(at).UTC().Format("15:04:05")})
	}
	var pending []string
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Status == StatusPending {
			pending = append(pending, t.Name)
			continue
		}
		v.Rows = append(v.Rows, row{TargetReport: t})
	}
	// Targets that need attention come first; the rest in the order in which they began.
	rank := func(s Status) int {
		return slices.Index([]Status{StatusNotRestored, StatusRunning, StatusUndone}, s) & 3
	}
	slices.SortStableFunc(v.Rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(rank(a.Status), rank(b.Status)), a.Started.Compare(b.Started))
	})
	v.Rows = v.fold(v.Rows)
	if len(pending) > 0 {
		v.Rest = append(v.Rest, rest{StatusPending, pending})
	}
	for i := range v.Rows {
		row := &v.Rows[i]
		row.Took = row.took(r.Ended).Round(100 * time.Millisecond).String()
		for _, s := range row.Steps {
			b := bar{StepReport: s, Left: percent(s.Started.Sub(r.Started)), Width: max(0.3,
				percent(s.Took)), Class: "ok", Tip: s.Name}
			switch {
			case s.Skipped:
				b.Class, b.Tip = "skip", s.Name+": was done already"
			case s.Undo && s.OK:
				b.Class, b.Tip = "undo", "undo "+s.Name
			case s.Undo:
				b.Class, b.Tip = "bad", "undo "+s.Name+": "+s.Error
			case !s.OK:
				b.Class, b.Tip = "bad", s.Name+": "+s.Error
			}
			b.Left = min(b.Left, 100-b.Width)
			row.Bars = append(row.Bars, b)
		}
	}
	return v
}

// fold keeps the first rows and lists the names of the others.
func (v *view) fold(rows []row) []row {
	keep := min(len(rows), maxRows)
	for _, r := range rows[keep:] {
		i := slices.IndexFunc(v.Rest, func(x rest) bool { return x.Status == r.Status })
		if i < 0 {
			v.Rest = append(v.Rest, rest{Status: r.Status})
			i = len(v.Rest) - 1
		}
		v.Rest[i].Names = append(v.Rest[i].Names, r.Name)
	}
	return rows[:keep]
}

func class(o Outcome) string {
	switch o {
	case OutcomeDone:
		return "ok"
	case OutcomeNotRestored:
		return "bad"
	default:
		return "undo"
	}
}

// PageStyle is the style sheet of [Report.WriteHTML]. Other pages use it to look the same.
const PageStyle = `:root { --ok:#2e7d4f; --bad:#b3261e; --undo:#b26a00; --skip:#8a94a0; --line:#dfe3e8; --ink:#1d232a; --soft:#5b6670; --paper:#fff; --track:#f4f6f8; --alarm:#fbeeee; color-scheme:light dark; }
@media (prefers-color-scheme: dark) { :root { --ok:#3f9a66; --bad:#d9584f; --undo:#c98a2b; --skip:#6f7a86; --line:#343b43; --ink:#e3e7eb; --soft:#9aa5b0; --paper:#15191d; --track:#242a31; --alarm:#3a2020; } }
* { box-sizing:border-box; }
body { font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; color:var(--ink); background:var(--paper); margin:2rem auto; max-width:1180px; padding:0 1.25rem; }
h1 { font-size:1.5rem; margin:0 0 .25rem; } h2 { font-size:1.1rem; margin:2rem 0 .5rem; }
.soft { color:var(--soft); }
.badge { display:inline-block; padding:.05rem .55rem; border-radius:1rem; color:#fff; font-size:.85rem; white-space:nowrap; background:var(--skip); }
.badge.ok,.badge.done { background:var(--ok); } .badge.bad,.badge.not_restored { background:var(--bad); } .badge.undo,.badge.undone,.badge.running { background:var(--undo); }
.halt { border-left:4px solid var(--bad); padding:.4rem .8rem; background:var(--alarm); margin:.8rem 0; overflow-wrap:anywhere; }
.counts { display:flex; flex-wrap:wrap; gap:1.5rem; margin:.8rem 0; } .counts b { display:block; font-size:1.5rem; font-weight:600; }
table { border-collapse:collapse; width:100%; } th,td { text-align:left; padding:.3rem .6rem .3rem 0; vertical-align:top; border-bottom:1px solid var(--line); }
th { color:var(--soft); font-weight:500; font-size:.85rem; }
td.name { overflow-wrap:anywhere; } td.short { white-space:nowrap; } td.part { width:25%; } .err { color:var(--bad); font-size:.85rem; overflow-wrap:anywhere; white-space:pre-wrap; }
.grid { table-layout:fixed; } .grid th:nth-child(1){width:22%} .grid th:nth-child(2){width:7rem} .grid th:nth-child(3){width:5.5rem}
.track { position:relative; height:1.35rem; background:var(--track); border-radius:3px; }
.track i { position:absolute; top:2px; bottom:2px; border-radius:2px; min-width:3px; background:var(--ok); border-right:1px solid var(--paper); }
.track i.bad { background:var(--bad); } .track i.undo { background:var(--undo); } .track i.skip { background:var(--skip); }
.axis { position:relative; height:1.1rem; font-size:.75rem; color:var(--soft); } .axis span { position:absolute; transform:translateX(-50%); white-space:nowrap; }
.axis span:first-child { transform:none; } .axis span:last-child { transform:translateX(-100%); }
.key span { margin-right:1.1rem; font-size:.85rem; } .key i { display:inline-block; width:.9rem; height:.7rem; border-radius:2px; margin-right:.35rem; }
details { margin:.2rem 0; } summary { cursor:pointer; font-size:.85rem; color:var(--soft); } details table { font-size:.85rem; }
pre { overflow-x:auto; }
@media (max-width:640px) { .stack > tbody > tr:first-child { display:none; } .stack > tbody > tr { display:block; padding:.5rem 0; border-bottom:1px solid var(--line); } .stack > tbody > tr > td { display:block; width:auto; border:0; padding:.1rem 0; white-space:normal; overflow-wrap:anywhere; } .grid details { overflow-x:auto; } }
@media print { body { margin:0; max-width:none; } .track, .badge, .key i { -webkit-print-color-adjust:exact; print-color-adjust:exact; } }`

var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"css":   func() template.CSS { return PageStyle },
		"stamp": stamp,
		"words": Status.words,
		"ms":    func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rollout: {{.Title}}</title>
<style>
{{css}}
</style>
</head>
<body>
<h1>Rollout <span class="badge {{.Class}}">{{.Title}}</span></h1>
<p class="soft">{{stamp .Started}} to {{stamp .Ended}} ({{.Took}}), plan {{printf "%.12s" .Plan}}</p>
{{with .Halt}}<p class="halt">No further target was begun: {{.}}</p>{{end}}
{{with .Probes}}<p class="soft">{{.}}</p>{{end}}
<div class="counts">{{range .Counts}}<div><b>{{.N}}</b><span class="soft">{{.Status | words}}</span></div>{{end}}</div>

<h2>Who and when</h2>
<table class="stack">
<tr><th>Time (UTC)</th><th>Event</th></tr>
{{range .Events}}<tr><td style="white-space:nowrap">{{stamp .Time}}</td><td class="name">{{.Text}}</td></tr>
{{end}}</table>

<h2>Targets</h2>
<p class="key"><span><i style="background:var(--ok)"></i>done</span><span><i style="background:var(--undo)"></i>undone</span><span><i style="background:var(--bad)"></i>failed</span><span><i style="background:var(--skip)"></i>was done already</span></p>
<table class="grid stack">
<tr><th>Target</th><th>Status</th><th>Took</th><th><div class="axis">{{range .Ticks}}<span style="left:{{printf "%.2f" .Left}}%">{{.Label}}</span>{{end}}</div></th></tr>
{{range .Rows}}<tr>
<td class="name"><strong>{{.Name}}</strong><br><span class="soft">{{.Wave}}</span></td>
<td><span class="badge {{.Status}}">{{.Status | words}}</span></td>
<td>{{.Took}}</td>
<td><div class="track">{{range .Bars}}<i class="{{.Class}}" style="left:{{printf "%.2f" .Left}}%;width:{{printf "%.2f" .Width}}%" title="{{.Tip}}"></i>{{end}}</div>
{{with .Error}}<div class="err">{{.}}</div>{{end}}
<details><summary>{{len .Steps}} steps</summary><table><tr><th>Step</th><th>Began (UTC)</th><th>Took</th><th>Tries</th><th>Result</th></tr>
{{range .Bars}}<tr><td>{{if .Undo}}undo {{end}}{{.Name}}</td><td>{{stamp .Started}}</td><td>{{ms .Took}}</td><td>{{.Attempts}}</td><td>{{if .Skipped}}was done already{{else if .OK}}ok{{else if .Error}}<span class="err">{{.Error}}</span>{{else}}not ended{{end}}</td></tr>
{{end}}</table></details></td>
</tr>
{{end}}</table>
{{range .Rest}}<details><summary>{{len .Names}} more {{.Status | words}}</summary><p class="soft">{{range .Names}}{{.}} {{end}}</p></details>{{end}}
</body>
</html>
`))
})
