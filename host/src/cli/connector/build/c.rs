//! C: clang makes a core module with the generated bindings and the helpers; the component is made of
//! it here, without further tools.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{BuildError, Runner, helpers, write, write_all};
use crate::cli::connector::language::{Language, c_sources};
use crate::cli::connector::tools::{C_PACKAGES, CLANG};
use crate::kit;

/// For WASI preview 1; newer compilers have other names for it too, and all know this one.
const TARGET: &str = "wasm32-wasi";

pub(super) async fn build(runner: &Runner, folder: &Path, made: &Path) -> Result<(), BuildError> {
    let world = Language::C.world(folder)?;
    let clang = CLANG.ready(runner).await?;
    let sysroot = sysroot(runner, &clang).await?;
    let build = folder.join("build");
    write_all(&build.join("sdk"), helpers("c", &[".c", ".h"]))?;
    let schema = std::fs::read(folder.join("schema.json")).map_err(|error| {
        BuildError::Folder(format!(
            "{}: cannot be read: {error}. It is the JSON Schema of the connector's configuration",
            folder.join("schema.json").display()
        ))
    })?;
    write(&build.join("schema.c"), embedded(&schema).as_bytes())?;

    let mut command = Command::new(clang);
    command
        .arg(format!("--target={TARGET}"))
        .arg(format!("--sysroot={}", sysroot.display()))
        .args(["-mexec-model=reactor", "-std=gnu11", "-Os", "-flto"])
        .args(["-Wall", "-Wl,--strip-all", "-Ibuild/sdk"])
        .args(c_sources(folder))
        .arg("build/schema.c");
    for (name, _) in helpers("c", &[".c"]) {
        command.arg(format!("build/sdk/{name}"));
    }
    command
        .args(["-o", "build/module.wasm"])
        .current_dir(folder);
    runner.run("compiling with clang", command).await?;
    let module = build.join("module.wasm");
    let bytes = std::fs::read(&module)
        .map_err(|error| BuildError::io(format!("{} cannot be read", module.display()), error))?;
    write(made, &kit::component(&bytes, world)?)?;
    drop(std::fs::remove_file(module));
    Ok(())
}

/// Where headers and libraries for the target are, if all that is needed is there.
async fn sysroot(runner: &Runner, clang: &Path) -> Result<PathBuf, BuildError> {
    let missing = |what: &str| BuildError::Missing {
        what: what.to_owned(),
        install: C_PACKAGES,
    };
    let sysroot = match std::env::var_os("WASI_SDK_PATH") {
        Some(sdk) => PathBuf::from(sdk).join("share/wasi-sysroot"),
        None => PathBuf::from("/usr"),
    };
    if !sysroot.join(format!("include/{TARGET}/stdio.h")).is_file() {
        return Err(missing("the C library for WebAssembly (wasi-libc)"));
    }
    let linker = runner.ask(clang, &["--print-prog-name=wasm-ld"]).await?;
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join("wasm-ld").is_file())
    };
    if !Path::new(linker.trim()).is_file() && !on_path() {
        return Err(missing("the linker for WebAssembly (wasm-ld)"));
    }
    let target = format!("--target={TARGET}");
    let library = runner
        .ask(clang, &[&target, "--print-libgcc-file-name"])
        .await?;
    if !Path::new(library.trim()).is_file() {
        return Err(missing(
            "clang's library for WebAssembly (libclang_rt.builtins-wasm32)",
        ));
    }
    Ok(sysroot)
}

/// The schema as a constant in C, byte by byte: no text has to be escaped, and no compiler's limit on the
/// length of a literal matters.
fn embedded(schema: &[u8]) -> String {
    let mut code = String::from("const char windlass_schema[] = {");
    for (place, byte) in schema.iter().enumerate() {
        code.push_str(if place % 24 == 0 { "\n" } else { "" });
        // As signed numbers: a byte above 127 does not fit a `char` otherwise.
        code.push_str(&format!("{},", byte.cast_signed()));
    }
    code.push_str("\n0};\n");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_becomes_a_constant_that_ends_with_zero() {
        assert_eq!(
            embedded("{é".as_bytes()),
            "const char windlass_schema[] = {\n123,-61,-87,\n0};\n"
        );
    }
}
