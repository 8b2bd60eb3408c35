"""What a program that PyInstaller freezes must carry: the SQL, and the parts that are loaded when they are used."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_submodules  # type: ignore[import-untyped]

from outbox.sql_files import folder

datas = collect_data_files("outbox", excludes=["_pyinstaller"])
for name in ("migrations", "supabase_sql"):
    place = Path(str(folder(name)))
    datas += [
        (str(file), str(Path("outbox", f"_{name}", file.relative_to(place).parent))) for file in place.rglob("*.sql")
    ]
hiddenimports = collect_submodules("outbox", filter=lambda module: not module.startswith("outbox._pyinstaller"))
