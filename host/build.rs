//! Builds the connectors that come with the host (`guests/rust`, the members that say
//! `bundled = true`) for wasm32-wasip2 and writes `bundled.rs` for `src/connectors.rs` to embed. Lists
//! what authors of connectors need (`kit.rs`, for `src/kit`). Asks the linker for a small binary, where it
//! knows how to make one.
//!
//! They are a workspace of their own with a target folder of its own: cargo, while it runs this
//! script, holds the lock of the outer one. Nothing of the outer build's settings (flags, wrappers,
//! profile) may reach the inner one.

#![expect(clippy::print_stderr, reason = "cargo shows it when this fails")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TARGET: &str = "wasm32-wasip2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let host = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = host.parent().ok_or("the host's folder has no parent")?;
    let guests = root.join("guests/rust");
    let out = PathBuf::from(variable("OUT_DIR")?);

    let names = bundled(&guests)?;
    for name in &names {
        watch(&guests.join(name));
    }
    for path in ["connector", "Cargo.toml", "Cargo.lock"] {
        watch(&guests.join(path));
    }
    watch(&root.join("wit"));
    watch(Path::new("build.rs"));

    have_target()?;
    let target_dir = target_dir(&out);
    build(&guests, &target_dir, &names)?;

    let built = target_dir.join(TARGET).join("release");
    pack(&built, &names, &out)?;
    small(&out)?;
    kit(root, &out)
}

/// Writes all components as one archive, and where in it each of them is. They are built from the same
/// libraries: together they pack to a seventh, each alone to a third.
fn pack(built: &Path, names: &[String], out: &Path) -> Result<()> {
    let mut all = Vec::new();
    let mut places = String::new();
    for name in names {
        let component = built.join(format!("connector_{}.wasm", name.replace('-', "_")));
        let bytes = fs::read(&component)
            .map_err(|error| format!("cannot take {}: {error}", component.display()))?;
        let start = all.len();
        all.extend(bytes);
        writeln!(places, "    ({name:?}, {start}..{}),", all.len())?;
    }
    fs::write(out.join("bundled.zst"), zstd::bulk::compress(&all, 19)?)?;
    let list = format!(
        "/// Name of every connector that comes with the host, sorted, and where it is in the archive.\n\
         const BUNDLED: &[(&str, Range<usize>)] = &[\n{places}];\n\
         /// All components, one behind the other, packed with zstd.\n\
         const ARCHIVE: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/bundled.zst\"));\n\
         /// Bytes of the archive when it is unpacked.\n\
         const UNPACKED: usize = {};\n",
        all.len()
    );
    fs::write(out.join("bundled.rs"), list)?;
    Ok(())
}

/// What makes the binary smaller and not slower: functions of equal code are one, and the places that the
/// loader must relocate are a bitmap (DT_RELR, for which the C library must know it: glibc does since
/// 2.36). As always, a machine with an older C library than this one's may not run the result.
const SMALL: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

/// Asks for each of them, if a program that is linked so runs here.
fn small(out: &Path) -> Result<()> {
    if variable("HOST")? != variable("TARGET")? {
        return Ok(());
    }
    let folder = out.join("small");
    fs::create_dir_all(&folder)?;
    let (source, program) = (folder.join("small.rs"), folder.join("small"));
    fs::write(
        &source,
        "fn main() { assert!(std::env::args().len() > 0); }\n",
    )?;
    for argument in SMALL {
        let mut compiler = Command::new(variable("RUSTC")?);
        compiler.arg(&source).arg("-o").arg(&program);
        // As the binary will be linked.
        if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
            compiler.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
        }
        if let Ok(linker) = env::var("RUSTC_LINKER") {
            compiler.arg(format!("-Clinker={linker}"));
        }
        compiler.arg(format!("-Clink-arg={argument}"));
        let works = |command: &mut Command| {
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.status().is_ok_and(|status| status.success())
        };
        if works(&mut compiler) && works(&mut Command::new(&program)) {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    Ok(())
}

/// What `windlass connector new` and `build` write, below the root of the tree. Folders that are not
/// there are left out.
const KIT: [&str; 7] = [
    "wit",
    "host/templates",
    "guests/rust/connector",
    "guests/rust/Cargo.lock",
    "guests/python/sdk",
    "guests/js/sdk",
    "guests/c/sdk",
];

/// Writes the list of those files with their texts.
fn kit(root: &Path, out: &Path) -> Result<()> {
    let mut files = Vec::new();
    for part in KIT {
        watch(&root.join(part));
        collect(&root.join(part), &mut files)?;
    }
    files.sort();
    let mut list = String::from(
        "/// Path below the root of the tree and text of every file of the kit, sorted by path.\n\
         pub static FILES: &[(&str, &str)] = &[\n",
    );
    for file in &files {
        let name = file
            .strip_prefix(root)?
            .to_str()
            .ok_or("a path is not UTF-8")?;
        let place = file.to_str().ok_or("a path is not UTF-8")?;
        writeln!(list, "    ({name:?}, include_str!({place:?})),")?;
    }
    list.push_str("];\n");
    fs::write(out.join("kit.rs"), list)?;
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    const LEFT_OUT: [&str; 4] = ["target", "node_modules", "build", "__pycache__"];
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !LEFT_OUT.contains(&name.as_ref()) {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// The folders below `guests` whose Cargo.toml says that they are bundled, sorted.
fn bundled(guests: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(guests).map_err(|error| {
        format!(
            "cannot read {}: {error}; is this a whole checkout?",
            guests.display()
        )
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(manifest) = fs::read_to_string(entry.path().join("Cargo.toml")) else {
            continue;
        };
        if manifest.lines().any(|line| line.trim() == "bundled = true") {
            let name = entry.file_name().into_string();
            names.push(name.map_err(|name| format!("{} is not UTF-8", name.display()))?);
        }
    }
    names.sort();
    Ok(names)
}

/// A folder next to the profiles, so that all profiles and clippy build the connectors once.
fn target_dir(out: &Path) -> PathBuf {
    // <target>/<profile>/build/<package>/out
    out.ancestors().nth(4).unwrap_or(out).join("guests")
}

/// Makes sure that the compiler in use can compile for the connectors' target.
fn have_target() -> Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()?;
    let folder = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    if answer.status.success() && folder.is_dir() {
        return Ok(());
    }
    // Rustup's wrapper has set RUSTUP_TOOLCHAIN: this adds to the toolchain that runs now.
    let added = Command::new("rustup")
        .args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .status();
    match added {
        Ok(status) if status.success() => {
            println!("cargo::warning=added the target {TARGET} to this toolchain; the connectors need it");
            Ok(())
        }
        Ok(status) => Err(format!(
            "the connectors need the target {TARGET}, and `rustup target add {TARGET}` failed ({status}): \
             run it yourself and see what it says, then build again"
        )
        .into()),
        Err(error) => Err(format!(
            "the connectors need the target {TARGET}, which this Rust lacks, and rustup cannot be run ({error}): \
             install Rust with rustup (https://rustup.rs), or add your distribution's package for that target"
        )
        .into()),
    }
}

fn build(guests: &Path, target_dir: &Path, names: &[String]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(guests).args([
        "build",
        "--release",
        "--locked",
        "--lib",
        "--target",
        TARGET,
        "--target-dir",
    ]);
    command.arg(target_dir);
    for name in names {
        command.args(["--package", &format!("connector-{name}")]);
    }
    for (name, _) in env::vars_os() {
        if belongs_to_the_outer_build(&name) {
            command.env_remove(name);
        }
    }
    // Empty goes before flags in a configuration file, which are meant for the machine, not for wasm.
    command.env("CARGO_ENCODED_RUSTFLAGS", "");
    // Standard output is where cargo reads this script's directives.
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "the connectors in guests/rust do not build: see above. To repeat it alone: \
         cd guests/rust && cargo build --release --locked --target {TARGET}. If Cargo.lock needs an update, \
         build once there without --locked and commit it"
    )
    .into())
}

/// What cargo, clippy or a user's settings for the outer build put into the environment.
fn belongs_to_the_outer_build(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    matches!(
        name,
        "RUSTFLAGS"
            | "RUSTDOCFLAGS"
            | "RUSTC_WRAPPER"
            | "RUSTC_WORKSPACE_WRAPPER"
            | "RUSTC_LINKER"
            | "CLIPPY_ARGS"
            | "CARGO_INCREMENTAL"
            | "CARGO_TARGET_DIR"
            | "OUT_DIR"
            | "TARGET"
            | "HOST"
            | "PROFILE"
            | "OPT_LEVEL"
            | "DEBUG"
    ) || [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "DEP_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name)
        .ok_or_else(|| format!("{name} is not set: this script is for cargo to run").into())
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
