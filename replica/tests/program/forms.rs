//! Requests as browsers, libraries and command-line programs send them, against the program of a replica.

use crate::replica::ReplicaProcess;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hyper::Method;
use std::path::Path;

/// A request of a client. `{file}` in the body stands for the bytes of the image file, `{base64}` for its base64, and
/// `{percent}` for its base64 with percent-encoding. Each line break in a multipart body is sent as CR LF.
struct Sample {
    client: &'static str,
    content_type: &'static str,
    body: &'static str,
}

const SAMPLES: [Sample; 32] = [
    Sample {
        client: "Chrome, a form with a text field and two files, one of which is not chosen",
        content_type: "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        body: "------WebKitFormBoundary7MA4YWxkTrZu0gW\nContent-Disposition: form-data; name=\"top_k\"\n\n3\n\
               ------WebKitFormBoundary7MA4YWxkTrZu0gW\nContent-Disposition: form-data; name=\"other\"; filename=\"\"\n\
               Content-Type: application/octet-stream\n\n\n------WebKitFormBoundary7MA4YWxkTrZu0gW\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"a%22b.png\"\nContent-Type: image/png\n\n\
               {file}\n------WebKitFormBoundary7MA4YWxkTrZu0gW--\n",
    },
    Sample {
        client: "Firefox, a file name that is not ASCII",
        content_type: "multipart/form-data; boundary=---------------------------9051914041544843365972754266",
        body: "-----------------------------9051914041544843365972754266\n\
               Content-Disposition: form-data; name=\"photo\"; filename=\"猫 é.png\"\nContent-Type: image/png\n\n{file}\n\
               -----------------------------9051914041544843365972754266--\n",
    },
    Sample {
        client: "Internet Explorer, a whole path as the file name",
        content_type: "multipart/form-data; boundary=---------------------------7d44e178b0434",
        body: "-----------------------------7d44e178b0434\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"C:\\new\\table.png\"\n\
               Content-Type: image/x-png\n\n{file}\n-----------------------------7d44e178b0434--\n",
    },
    Sample {
        client: "fetch with FormData and a Blob",
        content_type: "multipart/form-data; boundary=----formdata-undici-048292837441",
        body: "------formdata-undici-048292837441\nContent-Disposition: form-data; name=\"image\"; filename=\"blob\"\n\
               Content-Type: application/octet-stream\n\n{file}\n------formdata-undici-048292837441--",
    },
    Sample {
        client: "fetch with FormData and the data URL of a canvas",
        content_type: "multipart/form-data; boundary=----WebKitFormBoundaryA",
        body: "------WebKitFormBoundaryA\nContent-Disposition: form-data; name=\"image\"\n\n\
               data:image/png;base64,{base64}\n------WebKitFormBoundaryA--\n",
    },
    Sample {
        client: "requests, files={'image': file}",
        content_type: "multipart/form-data; boundary=2f8a7ed4d4d34dd1a0a4b3b6d1c2e3f4",
        body: "--2f8a7ed4d4d34dd1a0a4b3b6d1c2e3f4\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"cat.png\"\n\n{file}\n\
               --2f8a7ed4d4d34dd1a0a4b3b6d1c2e3f4--\n",
    },
    Sample {
        client: "urllib3 before 1.25, a file name that is not ASCII",
        content_type: "multipart/form-data; boundary=c0c46a5929c2ce4c935c9cff85bf11d4",
        body: "--c0c46a5929c2ce4c935c9cff85bf11d4\n\
               Content-Disposition: form-data; name=\"upload\"; filename*=utf-8''%E7%8C%AB.png\n\
               Content-Type: image/png\n\n{file}\n--c0c46a5929c2ce4c935c9cff85bf11d4--\n",
    },
    Sample {
        client: "aiohttp",
        content_type: "multipart/form-data; boundary=8b2c3d4e5f60718293a4b5c6d7e8f901",
        body: "--8b2c3d4e5f60718293a4b5c6d7e8f901\nContent-Type: image/png\n\
               Content-Disposition: form-data; name=\"file\"; filename=\"cat.png\"; filename*=utf-8''cat.png\n\n{file}\n\
               --8b2c3d4e5f60718293a4b5c6d7e8f901--\n",
    },
    Sample {
        client: "email.mime of Python: folded headers, base64, and the name in pieces",
        content_type: "multipart/form-data; charset=\"utf-8\"; boundary=\"===============7330845974216740156==\"",
        body: "MIME-Version: 1.0\n\n--===============7330845974216740156==\nContent-Type: image/png\nMIME-Version: 1.0\n\
               Content-Transfer-Encoding: base64\nContent-Disposition: form-data; name=\"picture\";\n filename*0=\"a long \";\
               \n filename*1=\"name.png\"\n\n{base64}\n\n--===============7330845974216740156==--\n",
    },
    Sample {
        client: "curl -F image=@FILE, a quote in the file name",
        content_type: "multipart/form-data; boundary=------------------------d74496d66958873e",
        body: "--------------------------d74496d66958873e\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"a\\\";b.png\"\nContent-Type: image/png\n\n{file}\n\
               --------------------------d74496d66958873e--\n",
    },
    Sample {
        client: "curl -F data=@FILE, as TorchServe documents it",
        content_type: "multipart/form-data; boundary=------------------------0123456789abcdef",
        body: "--------------------------0123456789abcdef\n\
               Content-Disposition: form-data; name=\"data\"; filename=\"kitten.png\"\nContent-Type: image/png\n\n{file}\n\
               --------------------------0123456789abcdef--\n",
    },
    Sample {
        client: "curl -F data=<FILE, a field without a file name",
        content_type: "multipart/form-data; boundary=------------------------0123456789abcdef",
        body: "--------------------------0123456789abcdef\nContent-Disposition: form-data; name=\"data\"\n\n{file}\n\
               --------------------------0123456789abcdef--\n",
    },
    Sample {
        client: "MultipartFormDataContent of .NET",
        content_type: "multipart/form-data; boundary=\"a7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3\"",
        body: "--a7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3\nContent-Type: image/png\n\
               Content-Disposition: form-data; name=image; filename=cat.png; filename*=utf-8''cat.png\n\n{file}\n\
               --a7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3--\n",
    },
    Sample {
        client: "MultipartFormDataContent of .NET, a part without a name",
        content_type: "multipart/form-data; boundary=\"b7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3\"",
        body: "--b7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3\nContent-Type: image/png\nContent-Disposition: form-data\n\n{file}\n\
               --b7d7c8ea-7b1c-4b6c-8f7e-0d7ea5d1f7a3--\n",
    },
    Sample {
        client: "a program of .NET Framework, names of parameters in capitals",
        content_type: "multipart/form-data; Boundary=\"---x\"",
        body: "-----x\nContent-Disposition: form-data; NAME=\"photo\"; FileName=\"cat.png\"\n\n{file}\n-----x--\n",
    },
    Sample {
        client: "mime/multipart of Go",
        content_type: "multipart/form-data; boundary=b5d3c1a0f9e8d7c6b5a4938271605f4e3d2c1b0a998877665544332211ff",
        body: "--b5d3c1a0f9e8d7c6b5a4938271605f4e3d2c1b0a998877665544332211ff\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"cat.png\"\n\
               Content-Type: application/octet-stream\n\n{file}\n\
               --b5d3c1a0f9e8d7c6b5a4938271605f4e3d2c1b0a998877665544332211ff--\n",
    },
    Sample {
        client: "CURLFile of PHP",
        content_type: "multipart/form-data; boundary=------------------------5d1f0c7b6a3e2948",
        body: "--------------------------5d1f0c7b6a3e2948\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"/tmp/php1a2b3c\"\n\
               Content-Type: application/octet-stream\n\n{file}\n--------------------------5d1f0c7b6a3e2948--\n",
    },
    Sample {
        client: "OkHttp",
        content_type: "multipart/form-data; boundary=6f0e2a8c-5b1d-4a3e-9c7f-1234567890ab",
        body: "--6f0e2a8c-5b1d-4a3e-9c7f-1234567890ab\n\
               Content-Disposition: form-data; name=\"image\"; filename=\"cat.png\"\nContent-Type: image/png\n\
               Content-Length: 1234\n\n{file}\n--6f0e2a8c-5b1d-4a3e-9c7f-1234567890ab--\n",
    },
    Sample {
        client: "Apache HttpClient",
        content_type: "multipart/form-data; charset=ISO-8859-1; boundary=Aq1_-zZ9",
        body: "--Aq1_-zZ9\nContent-Disposition: form-data; name=\"image\"; filename=\"cat.png\"\nContent-Type: image/png\n\
               Content-Transfer-Encoding: binary\n\n{file}\n--Aq1_-zZ9--\n",
    },
    Sample {
        client: "RestTemplate of Spring",
        content_type: "multipart/form-data;charset=UTF-8;boundary=Xk3JcZ_x-1",
        body: "--Xk3JcZ_x-1\nContent-Disposition: form-data; name=\"meta\"\nContent-Type: text/plain;charset=UTF-8\n\
               Content-Length: 1\n\nx\n--Xk3JcZ_x-1\nContent-Disposition: form-data; name=\"file\"; filename=\"cat.png\"\n\
               Content-Type: image/png\nContent-Length: 1234\n\n{file}\n--Xk3JcZ_x-1--\n",
    },
    Sample {
        client: "a space before the semicolon",
        content_type: "multipart/form-data ; boundary=B",
        body: "--B\nContent-Disposition: form-data ; name = \"image\" ; filename = \"cat.png\"\n\n{file}\n--B--",
    },
    Sample {
        client: "a program for mail: preamble, spaces after the boundary, epilogue",
        content_type: "multipart/form-data; boundary=\"gc0p4Jq0M2Yt08jU534c0p\"",
        body: "This is a message in several parts.\n--gc0p4Jq0M2Yt08jU534c0p  \n\
               Content-Disposition: form-data; name=\"image\"\n\n{file}\n--gc0p4Jq0M2Yt08jU534c0p--  \nThe end.\n",
    },
    Sample {
        client: "requests, data={'image': base64}",
        content_type: "application/x-www-form-urlencoded",
        body: "image={percent}",
    },
    Sample {
        client: "URLSearchParams with a data URL and other fields",
        content_type: "application/x-www-form-urlencoded;charset=UTF-8",
        body: "id=7&image=data%3Aimage%2Fpng%3Bbase64%2C{percent}&note=a+b",
    },
    Sample {
        client: "curl -d image=BASE64, not percent-encoded",
        content_type: "application/x-www-form-urlencoded",
        body: "image={base64}",
    },
    Sample {
        client: "curl --data-urlencode image@FILE, base64 that is safe in URLs",
        content_type: "application/x-www-form-urlencoded",
        body: "image={url-safe}%0A",
    },
    Sample {
        client: "curl --data-binary @FILE, which calls the file a form",
        content_type: "application/x-www-form-urlencoded",
        body: "{file}",
    },
    Sample {
        client: "requests, json={'image': base64}",
        content_type: "application/json",
        body: "{\"image\": \"{base64}\"}",
    },
    Sample {
        client: "fetch with JSON and a data URL",
        content_type: "application/json;charset=UTF-8",
        body: "{\"id\":1,\"image\":\"data:image/png;base64,{base64}\",\"tags\":[\"a\"]}",
    },
    Sample {
        client: "a program of Windows: a byte order mark, base64 that is safe in URLs",
        content_type: "application/json",
        body: "\u{feff}{\"image\":\"{url-safe}\"}",
    },
    Sample {
        client: "base64 of Ruby, a line break after each 60 digits",
        content_type: "application/json",
        body: "{\"image\":\"{lines}\"}",
    },
    Sample { client: "curl -T FILE", content_type: "", body: "{file}" },
];

fn picture() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/picture.png")).expect("the picture is there")
}

impl Sample {
    /// The body with `file` in its place.
    fn body(&self, file: &[u8], line_break: &str) -> Vec<u8> {
        let base64 = BASE64_STANDARD.encode(file);
        let percent = base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let lines: Vec<_> = base64.as_bytes().chunks(60).map(String::from_utf8_lossy).collect();
        let text = self.body.replace("{base64}", &base64).replace("{percent}", &percent);
        let text = text.replace("{url-safe}", &BASE64_URL_SAFE_NO_PAD.encode(file));
        let text = text.replace("{lines}", &lines.join("\\n"));
        let is_multipart = self.content_type.starts_with("multipart/");
        let text = if is_multipart { text.replace('\n', line_break) } else { text };
        match text.split_once("{file}") {
            Some((before, after)) => [before.as_bytes(), file, after.as_bytes()].concat(),
            None => text.into_bytes(),
        }
    }

    fn headers(&self) -> Vec<(&'static str, &'static str)> {
        if self.content_type.is_empty() { Vec::new() } else { vec![("content-type", self.content_type)] }
    }
}

#[tokio::test]
async fn the_requests_of_all_clients_are_answered_alike() {
    let replica = ReplicaProcess::start(&["--workers=1"]).await;
    let file = picture();
    let (_, _, expected) = replica.send(Method::POST, "/predict", &[], file.clone()).await;
    assert_eq!(expected["success"], true, "{expected}");
    for (method, path) in [(Method::POST, "/predictions/resnet-18"), (Method::PUT, "/predictions/any/1.0")] {
        let (status, _, answer) = replica.send(method, path, &[], file.clone()).await;
        assert_eq!(status, 200, "{path}: {answer}");
        assert_eq!(answer["predictions"], expected["predictions"], "{path}");
    }
    assert_eq!(replica.send(Method::PUT, "/predict", &[], file.clone()).await.0, 405);
    for sample in &SAMPLES {
        for line_break in ["\r\n", "\n"] {
            let body = sample.body(&file, line_break);
            let (status, _, answer) = replica.send(Method::POST, "/predict", &sample.headers(), body).await;
            assert_eq!(status, 200, "{}, line break {line_break:?}: {answer}", sample.client);
            assert_eq!(answer["predictions"], expected["predictions"], "{}", sample.client);
        }
    }
}

#[tokio::test]
async fn a_coded_body_is_refused_before_it_is_read() {
    let replica = ReplicaProcess::start(&["--workers=1"]).await;
    for path in ["/predict", "/v2/models/resnet18/infer"] {
        for (coding, status) in [("gzip", 415), ("identity, br", 415), ("Identity", 200)] {
            let headers = [("content-encoding", coding)];
            let (found, _, answer) = replica.send(Method::POST, path, &headers, picture()).await;
            if status == 415 {
                assert_eq!(found, status, "{path} {coding}: {answer}");
                let named = coding.rsplit(' ').next().expect("there is a coding");
                assert!(answer["error"].as_str().is_some_and(|error| error.contains(named)), "{answer}");
            } else {
                assert_ne!(found, 415, "{path} {coding}: {answer}");
            }
        }
    }
}
