-- The script for wrk: posts the same body again and again. The script's argument is the size of the body in bytes. In
-- the end it prints the results in one line, which bench/src/proxies/wrk.rs parses. It has no function for requests or
-- answers, since running Lua for each request would slow wrk down.

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
