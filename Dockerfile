# The image needs no more than the binary: it is static, and carries the kernel programs.
# `cargo xtask image` builds it; the context is the folder with the binary.
FROM scratch
COPY datapath /datapath
ENTRYPOINT ["/datapath"]
CMD ["agent"]
