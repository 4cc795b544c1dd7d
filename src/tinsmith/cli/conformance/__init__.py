"""`tinsmith conformance`: does a server of the protocol do what its clients rely on?

The official client drives the server; raw requests play what that client never sends twice or out
of order. One module a group of checks (`losses`, `gradients`, `optimizer`, `tenants`, `snapshots`,
`delivery`, `sampling`, `errors`, `protocol`, `restart`), each check a small function in one
registry (`registry`). `server` is the server under test, `closed_forms` the float64 references,
`command` the command.
"""
