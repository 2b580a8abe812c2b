package bundle

import (
	"reflect"
	"testing"
)

// A change of a clone, in any list of hooks, does not reach the manifest that a caller
// gave.
func TestClone(t *testing.T) {
	t.Parallel()
	filled := func() *Manifest {
		m := &Manifest{FileList: []string{"a.so"}}
		mw := reflect.ValueOf(&m.Middleware).Elem()
		for i := range mw.NumField() {
			switch f := mw.Field(i); f.Interface().(type) {
			case []Hook:
				f.Set(reflect.ValueOf([]Hook{{Name: "A", Path: "a.so"}}))
			case *Hook:
				f.Set(reflect.ValueOf(&Hook{Name: "A", Path: "a.so"}))
			}
		}
		return m
	}
	m := filled()
	c := m.clone()
	c.FileList[0] = "changed"
	mw := reflect.ValueOf(&c.Middleware).Elem()
	lists := 0
	for i := range mw.NumField() {
		switch f := mw.Field(i).Interface().(type) {
		case []Hook:
			f[0].Path = "changed"
			lists++
		case *Hook:
			f.Path = "changed"
			lists++
		}
	}
	if lists < 5 || !reflect.DeepEqual(m, filled()) {
		t.Errorf("%d lists of hooks; the manifest is now %+v", lists, m)
	}
}
