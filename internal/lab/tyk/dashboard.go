package tyk

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// DashboardAPI is /api/apis of a dashboard, as its public reference describes
// it. It keeps the documents that it is sent as they are.
type DashboardAPI struct {
	Keys     map[string]string // API key: organisation
	PageSize int               // 0: -2 gives all; otherwise it is not known, and pages have this size

	mu   sync.Mutex
	ids  []string          // in the order that they came
	docs map[string][]byte // by ID, with their envelope
	oas  map[string][]byte
	orgs map[string]string
	Puts int // writes that were carried out
}

// Add puts an API in: its classic definition, and its OAS form or nil.
func (d *DashboardAPI) Add(org, id string, classic, oas []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.docs == nil {
		d.docs, d.oas, d.orgs = map[string][]byte{}, map[string][]byte{}, map[string]string{}
	}
	if d.docs[id] == nil {
		d.ids = append(d.ids, id)
	}
	d.docs[id] = fmt.Appendf(nil, `{"api_model":{},"api_definition":%s,"hook_references":[]}`, classic)
	d.orgs[id] = org
	if oas != nil {
		d.oas[id] = oas
	}
}

// Doc returns the document of an API, its OAS form if there is one.
func (d *DashboardAPI) Doc(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc := d.oas[id]; doc != nil {
		return string(doc)
	}
	return string(d.docs[id])
}

func (d *DashboardAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	org, known := d.Keys[r.Header.Get("Authorization")]
	if !known {
		writeJSON(w, http.StatusUnauthorized, map[string]string{"Status": "Error",
			"Message": "Not authorised"})
		return
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/api/apis")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if id = strings.Trim(id, "/"); id == "" {
		d.list(w, r, org)
		return
	}
	docs := d.docs
	if rest, oas := strings.CutPrefix(id, "oas/"); oas {
		id, docs = rest, d.oas
	}
	switch doc := docs[id]; {
	case doc == nil || d.orgs[id] != org:
		writeJSON(w, http.StatusNotFound, map[string]string{"Status": "Error",
			"Message": "Could not retrieve detail"})
	case r.Method == http.MethodGet:
		writeJSON(w, http.StatusOK, json.RawMessage(doc))
	case r.Method == http.MethodPut:
		data, err := io.ReadAll(r.Body)
		if err != nil || !json.Valid(data) {
			writeJSON(w, http.StatusBadRequest, map[string]string{"Status": "Error",
				"Message": "API Definition not valid"})
			return
		}
		docs[id] = data
		d.Puts++
		writeJSON(w, http.StatusOK, map[string]string{"Status": "OK", "Message": "API updated"})
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (d *DashboardAPI) list(w http.ResponseWriter, r *http.Request, org string) {
	all := []json.RawMessage{}
	for _, id := range d.ids {
		if d.orgs[id] == org {
			all = append(all, d.docs[id])
		}
	}
	pages := 1
	if d.PageSize > 0 {
		page := 1
		_, _ = fmt.Sscan(r.URL.Query().Get("p"), &page)
		pages = (len(all) + d.PageSize - 1) / d.PageSize
		from := (max(page, 1) - 1) * d.PageSize
		all = all[min(from, len(all)):min(from+d.PageSize, len(all))]
	}
	writeJSON(w, http.StatusOK, map[string]any{"apis": all, "pages": pages})
}
