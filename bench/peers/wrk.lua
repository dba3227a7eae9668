-- wrk's script: posts one body of as many bytes as its argument says, and prints the outcome in one line that wrk.rs
-- reads. It has no request or response function, so that wrk runs no Lua per request.

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
