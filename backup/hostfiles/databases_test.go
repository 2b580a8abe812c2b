package hostfiles_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/hostfiles"
)

func TestDatabases(t *testing.T) {
	t.Parallel()
	const dashboard, gateway, pump = "opt/tyk-dashboard/tyk_analytics.conf",
		"opt/tyk-gateway/tyk.conf", "opt/tyk-pump/pump.conf"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // kind of each program, in order
	}{
		"none": {nil, ""},
		"gateway": {map[string]string{
			gateway: `{"storage":{"type":"redis","password":"s3cret"}}`}, "gateway redis"},
		"gateway by default": {map[string]string{gateway: `{}`}, "gateway redis"},
		"dashboard, mongo": {map[string]string{dashboard: `{"mongo_url":"mongodb://u:s3cret@h/tyk"}`},
			"dashboard redis, dashboard mongo"},
		"dashboard, default": {map[string]string{dashboard: `{}`}, "dashboard redis, dashboard mongo"},
		"dashboard, postgres": {map[string]string{
			dashboard: `{"storage":{"main":{"type":"postgres","connection_string":"password=s3cret"},"analytics":{"type":"mongo"}}}`},
			"dashboard redis, dashboard postgres, dashboard mongo"},
		"variable in the unit": {map[string]string{dashboard: `{"mongo_url":"x"}`,
			"lib/systemd/system/tyk-dashboard.service": "[Service]\n" +
				`Environment=A=b "TYK_DB_STORAGE_MAIN_TYPE=postgres"` + "\n"},
			"dashboard redis, dashboard postgres"},
		"variable in default": {map[string]string{dashboard: `{"storage":{"main":{"type":"mongo"}}}`,
			"etc/default/tyk-dashboard": "# x\nexport TYK_DB_STORAGE_MAIN_TYPE='postgres'\n"},
			"dashboard redis, dashboard postgres"},
		"a drop-in wins over its unit": {map[string]string{dashboard: `{}`,
			"lib/systemd/system/tyk-dashboard.service":          "Environment=TYK_DB_STORAGE_MAIN_TYPE=mongo\n",
			"etc/systemd/system/tyk-dashboard.service.d/a.conf": "Environment=TYK_DB_STORAGE_MAIN_TYPE=postgres\n"}, "dashboard redis, dashboard postgres"},
		"pump": {map[string]string{pump: `{"analytics_storage_type":"redis","pumps":{"csv":{"type":"csv"},"mongo-pump-aggregate":{"meta":{}},
			"agg":{"type":"sql_aggregate","meta":{"type":"postgres","connection_string":"password=s3cret"}}},"uptime_pump_config":{"uptime_type":"sql","type":"mysql"}}`},
			"pump redis, pump postgres, pump mongo, pump mysql"},
		"pump by a variable": {map[string]string{pump: `{"pumps":{}}`,
			"etc/default/tyk-pump": "TYK_PMP_PUMPS_SQL_TYPE=sql\nTYK_PMP_PUMPS_SQL_META_TYPE=postgres\n"},
			"pump redis, pump postgres"},
	} {
		fsys := fstest.MapFS{}
		for file, content := range c.files {
			fsys[file] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
		}
		needs, err := hostfiles.Databases(fsys)
		var got, all []string
		for _, n := range needs {
			got, all = append(got, n.By+" "+n.Kind), append(all, n.String())
		}
		if strings.Join(got, ", ") != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %s", name, got, err, c.want)
		}
		if strings.Contains(strings.Join(all, ""), "s3cret") {
			t.Errorf("%s: shows a secret: %v", name, all)
		}
	}
	_, err := hostfiles.Databases(fstest.MapFS{gateway: {Data: []byte(`{"secret": s3cret`)}})
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(),
		"/opt/tyk-gateway/tyk.conf") {
		t.Errorf("broken JSON: %v", err)
	}
}

// A set says which databases its hosts use, and which of them it does not hold:
// also where the configuration lies behind a link, and on another host.
func TestSetKnowsWhatIsMissing(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := linkedHost(t)
	write(t, root, "opt/tyk-dashboard/tyk_analytics.conf", `{"storage":{"main":{"type":"postgres"}}}`,
		0o600)
	src := &hostfiles.Source{FS: os.DirFS(root)}
	set := takePlain(t, t.TempDir(), src, text("redis", "of no kind"))
	var got []string
	for _, n := range set.Missing() {
		got = append(got, n.By+" "+n.Kind)
	}
	if want := "dashboard redis, dashboard postgres, gateway redis, pump redis"; strings.Join(got,
		", ") != want {
		t.Errorf("missing %v, want %s", got, want)
	}
	needs, err := src.Needs(t.Context())
	if err != nil || len(backup.Missing(needs, "redis")) != 1 || len(backup.Missing(needs, "redis",
		"postgres")) != 0 {
		t.Errorf("needs %v %v", needs, err)
	}
}
