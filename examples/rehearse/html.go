package main

import (
	"html/template"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// writeHTML writes the report as one page for a change request. The page needs no script and no
// network.
func writeHTML(path string, rep *Report) error {
	var b strings.Builder
	if err := page.Execute(&b, rep); err != nil {
		return err
	}
	return cli.WriteFile(path, []byte(b.String()))
}

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"css": func() template.CSS { return template.CSS(rollout.PageStyle) },
	"class": func(s *Step) string {
		return map[string]string{statusOK: "ok", statusFailed: "bad", statusSkipped: "skip"}[s.Status]
	},
	"kind": kind,
	"took": func(s float64) string {
		return (time.Duration(s*1000) * time.Millisecond).Round(100 * time.Millisecond).String()
	},
	"short": short,
}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rehearsal: {{.From}} to {{.To}}</title>
<style>
{{css}}
</style>
</head>
<body>
<h1>Rehearsal of {{.From}} to {{.To}} <span class="badge {{if .OK}}ok{{else}}bad{{end}}">{{if .OK}}every step is ok{{else}}a step failed{{end}}</span></h1>
<p class="soft">{{.Started}}, {{took .Duration}}{{if .Fail}}, with a {{.Fail}} that cannot start{{end}}</p>
{{with .Requests}}<p>{{.Failed}} failed of {{.Sent}} requests</p>{{end}}

<h2>Steps</h2>
<table class="stack">
<tr><th>Step</th><th>Status</th><th>Took</th><th>Real or stub</th><th>What happened</th></tr>
{{range .Steps}}<tr>
<td class="short"><strong>{{.Name}}</strong></td>
<td><span class="badge {{class .}}">{{.Status}}</span></td>
<td>{{took .Duration}}</td>
<td class="part">{{kind .}}{{if and .Stub (ne .Status "skipped")}}<br><span class="soft">{{.Stub}}</span>{{end}}</td>
<td class="name">{{range .Detail}}{{.}}<br>{{end}}</td>
</tr>
{{end}}</table>
{{if .Proof}}
<h2>Compared before and after the revert</h2>
<table class="stack">
<tr><th>What</th><th>Before</th><th>Upgraded</th><th>Reverted</th><th></th></tr>
{{range .Proof}}<tr><td>{{.What}}</td><td>{{short .Before}}</td><td>{{short .Upgraded}}</td><td>{{short .After}}</td><td><span class="badge {{if .Same}}ok{{else}}bad{{end}}">{{if .Same}}as before{{else}}differs{{end}}</span></td></tr>
{{end}}</table>{{end}}
{{if .Commands}}
<h2>Commands of the real upgrade</h2>
<pre>{{range .Commands}}{{.}}
{{end}}</pre>{{end}}
</body>
</html>
`))
