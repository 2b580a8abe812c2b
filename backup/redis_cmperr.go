package backup

// cmpErr is err, or otherwise if there is none.
func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
