global
    maxconn 40000
    hard-stop-after 6h
    # Two stacks that choose the same port in the same moment would both get it, and half of each other's browsers.
    noreuseport
    log stdout format raw daemon notice

defaults
    mode http
    log global
    option redispatch
    # A client that went away in the middle of a poll is no load any more.
    option abortonclose
    retries 3
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout http-request 15s
    timeout queue 5s
    # A node that takes another one's browsers answers late for a moment: it must not count as dead in the middle of it.
    timeout check 1s
    timeout tunnel 1h
    # In the words of the wire contract and as protected as a node's answers, also when no node is there to say them.
    http-error status 502 content-type application/json string '{"success":false,"error":"The service is busy, please try again","code":"no_node","retryAfter":1,"correlationId":""}' hdr Retry-After 1 hdr X-Content-Type-Options nosniff hdr Referrer-Policy no-referrer hdr X-Frame-Options DENY hdr Content-Security-Policy "default-src 'none'; frame-ancestors 'none'" hdr Cross-Origin-Resource-Policy same-origin
    http-error status 503 content-type application/json string '{"success":false,"error":"The service is busy, please try again","code":"no_node","retryAfter":1,"correlationId":""}' hdr Retry-After 1 hdr X-Content-Type-Options nosniff hdr Referrer-Policy no-referrer hdr X-Frame-Options DENY hdr Content-Security-Policy "default-src 'none'; frame-ancestors 'none'" hdr Cross-Origin-Resource-Policy same-origin
    http-error status 504 content-type application/json string '{"success":false,"error":"The service is busy, please try again","code":"no_node","retryAfter":1,"correlationId":""}' hdr Retry-After 1 hdr X-Content-Type-Options nosniff hdr Referrer-Policy no-referrer hdr X-Frame-Options DENY hdr Content-Security-Policy "default-src 'none'; frame-ancestors 'none'" hdr Cross-Origin-Resource-Policy same-origin

frontend browsers
    bind *:8443 ssl crt /secrets/site.pem alpn http/1.1
    # What a client claims about its own address is thrown away: the nodes trust this header from here.
    http-request del-header X-Forwarded-For
    option forwardfor
    default_backend nodes

backend nodes
    balance leastconn
    # The polling transport needs one node for all requests of a session.
    dynamic-cookie-key "${BALANCER_COOKIE_KEY}"
    # A node that dies, drains or hangs in the middle of a handshake costs its browsers nothing: another one answers.
    # Only for what may be repeated; other calls that a hanging node has taken get 504. Polls may take longer.
    http-request set-timeout server 10s unless { path_beg /socket.io/ } { url_param(sid) -m found }
    retry-on conn-failure empty-response response-timeout 503
    http-request disable-l7-retry unless METH_GET
    cookie votemill-node insert indirect nocache dynamic httponly attr SameSite=Lax
    option httpchk GET /api/health/ready
    http-check expect status 200
    default-server check inter 500ms fall 2 rise 2 slowstart 5s
    {{ range nomadService "votemill-node" }}
    server {{ .ID }} {{ .Address }}:{{ .Port }}
    {{ end }}
