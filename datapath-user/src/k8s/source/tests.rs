//! Folders and files.

use super::*;

const SERVICES: &str = "\
# two Services
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: ns}
spec:
  clusterIP: 10.200.1.1
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: ns}
spec: {clusterIP: 10.200.1.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: not-ours}
";

const SLICES: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"kind": "EndpointSlice", "addressType": "IPv4",
     "metadata": {"name": "s", "namespace": "ns", "labels": {"kubernetes.io/service-name": "a"}},
     "endpoints": [{"addresses": ["10.10.0.2"]}], "ports": [{"name": "", "port": 8080}]},
    {"kind": "Node", "metadata": {"name": "n"}},
    {"kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}}]}"#;

fn write(folder: &Folder, name: &str, text: &str) {
    fs::write(folder.path.join(name), text).expect("a file");
}

fn scan(folder: &mut Folder) -> Vec<String> {
    let events = folder.scan().expect("a folder");
    let mut seen: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Deleted(kind, name) => format!("-{kind:?} {name}"),
            Event::Listed(kind, names) => format!("={kind:?} {}", names.len()),
            other => key(other).map_or(String::new(), |(kind, name)| format!("+{kind:?} {name}")),
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn a_folder_is_followed() {
    let directory = tempfile::tempdir().expect("a folder");
    let mut folder = Folder::new(directory.path().to_owned());
    write(&folder, "services.yaml", SERVICES);
    write(&folder, "slices.json", SLICES);
    write(&folder, "readme.txt", "not ours");
    assert_eq!(
        scan(&mut folder),
        [
            "+Node n",
            "+Pod ns/p",
            "+Service ns/a",
            "+Service ns/b",
            "+Slice ns/s",
            "=Node 1",
            "=Pod 1",
            "=Service 2",
            "=ServiceCidr 0",
            "=Slice 1",
        ]
    );
    assert!(scan(&mut folder).is_empty());
    write(&folder, "services.yaml", &SERVICES.replace("10.200.1.2", "10.200.1.22"));
    assert_eq!(scan(&mut folder), ["+Service ns/b"]);
    write(&folder, "services.yaml", "kind: Service\nspec: [");
    assert!(scan(&mut folder).is_empty(), "the last good state stays");
    fs::remove_file(directory.path().join("services.yaml")).expect("the file");
    assert_eq!(scan(&mut folder), ["-Service ns/a", "-Service ns/b"]);
}

#[test]
fn errors_name_the_line_of_the_file() {
    let directory = tempfile::tempdir().expect("a folder");
    for (name, text, line) in [
        ("syntax.yaml", format!("{SERVICES}---\nkind: Service\nspec: [1,\n  }}\n"), 20),
        (
            "type.yaml",
            format!("{SERVICES}---\nkind: Service\nspec:\n  ports:\n  - port: many\n"),
            22,
        ),
        ("kind.yaml", format!("{SERVICES}---\nspec: {{}}\n"), 19),
        ("syntax.json", "{\n\"kind\": ]".to_owned(), 2),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        let error = read(&path, &mut Names::default()).expect_err("an error");
        assert_eq!(error.line, line, "{name}: {}", error.reason);
    }
}
