package session

// ReadObject returns how many members a text that is a JSON object has, and those that are strings.
func ReadObject(text string, known ...string) (count int, strings map[string]string, err error) {
	o, err := readObject(text, known...)
	strings = map[string]string{}
	for _, m := range o {
		if s, ok := m.value.string(); ok {
			strings[m.name] = s
		}
	}
	return len(o), strings, err
}
