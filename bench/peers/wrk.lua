-- The script of wrk: posts one body over and over, of as many bytes as its argument says. In the end it prints the
-- outcome in one line, which wrk.rs reads. It has no request or response function, so wrk runs no Lua for a request.

function init(args)
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "image/jpeg"
    wrk.body = string.rep("x", tonumber(args[1]))
end

function done(summary, latency, requests)
    local errors = summary.errors
    print(string.format(
        "outcome requests=%d duration_us=%d p50_us=%d p99_us=%d connect=%d read=%d write=%d status=%d timeout=%d",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
