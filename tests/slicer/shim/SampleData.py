"""Stand-in for Slicer's SampleData module: it only takes what is registered, with the arguments that it documents."""

sources = []


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileType="VolumeFile",
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ):
        if not (isinstance(uris, str) and isinstance(fileNames, str)):
            raise TypeError("the real one makes lists of the texts, and fails without them")
        sources.append(
            {"category": category, "name": sampleName, "load": customDownloader, "thumbnail": thumbnailFileName}
        )
