package postgres

// CheckStructure is what the kind registers.
var CheckStructure = checkStructure
